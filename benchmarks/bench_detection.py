"""Our training step of a detector against torchvision's own detector in a plain loop.

    python benchmarks/bench_detection.py [--rounds 25] [--only NAME] [--out FILE.json]

Mask R-CNN and RetinaNet of the small study on `garments`: images of 96 pixels, a step of 8 images,
2 for each of 4 workers. Ours is `groupnorm.training.loop.train`, with its data; torchvision's is
plain_detection.py. First the gate: with the same weights, images and random numbers both have the
same losses and gradients. Then they take turns, step by step on one thread, in two processes that
also take turns: one as it is, one with `keep_large_blocks`. Times are CPU time of the process, so
that other work on the machine does not count.

Peers: torchvision's detector in one pass over all images, whose batch norm then has the statistics
of all 8; for batch norm also in a pass for each worker, which computes what ours computes.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from queue import Empty
from typing import Any, NamedTuple

import torch
import torchvision
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))  # for the processes that are started
import plain_detection

from groupnorm.data import AnnotatedBatches
from groupnorm.data.detection.examples import Size, make_target, read_image
from groupnorm.environment import environment
from groupnorm.memory import keep_large_blocks
from groupnorm.models.detection import mask_rcnn, retinanet, roi_heads
from groupnorm.run.detection import build, load, make_task
from groupnorm.training.config import DetectionConfig
from groupnorm.training.distributed import ALONE
from groupnorm.training.loop import train
from groupnorm.training.memory import watch_peak

WORKERS, PER_WORKER = 4, 2
IMAGES = WORKERS * PER_WORKER
PLAIN_IMAGES = 400
WARM_UP, FOR_MEMORY, FOR_PARTS = 3, 3, 6  # rounds besides those that are timed
OURS, PEER, PER_PASS = "groupnorm", "torchvision", "torchvision, a pass per worker"
CPU = torch.device("cpu")


class Case(NamedTuple):
    """A detector and its norms."""

    name: str
    model: str
    norm: str
    norms: dict[str, str]

    @property
    def config(self) -> DetectionConfig:
        """As the small study trains it; the length is not reached."""
        return DetectionConfig(
            model=self.model, norm=self.norm, norms=self.norms, head_init="he", steps=10_000,
            workers=WORKERS, batch_per_worker=PER_WORKER, clip_norm=10.0,
        )  # fmt: skip


CASES = (
    Case("Mask R-CNN, frozenbn", "mask_rcnn_narrow", "none", {"backbone": "frozenbn"}),
    Case("Mask R-CNN, bn", "mask_rcnn_narrow", "bn", {}),
    Case("Mask R-CNN, gn", "mask_rcnn_narrow", "gn:groups=8", {}),
    Case("Mask R-CNN, gn+ws", "mask_rcnn_narrow", "gn:groups=8+ws", {}),
    Case("RetinaNet, bn", "retinanet_narrow", "bn", {}),
    Case("RetinaNet, gn", "retinanet_narrow", "gn:groups=8", {}),
)


class Finished(Exception):  # noqa: N818 - how the loop is left
    """All rounds are done."""


class Parts:
    """CPU seconds in the parts of a step, by side; a part's time is without that of parts in it."""

    def __init__(self) -> None:
        self.seconds: dict[str, dict[str, float]] = {}
        self.stack, self.last, self.side = ["other"], 0.0, ""
        self.watched: list[tuple[Any, str, Any]] = []

    def begin(self, side: str) -> None:
        """What follows belongs to this side."""
        self.side, self.last = side, time.process_time()
        self.seconds.setdefault(side, defaultdict(float))

    def charge(self) -> None:
        """Add the time since the last call to the part that is running."""
        now = time.process_time()
        self.seconds[self.side][self.stack[-1]] += now - self.last
        self.last = now

    def watch(self, owner: Any, name: str, part: str) -> None:
        """Time an attribute that is called."""
        call = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self.charge()
            self.stack.append(part)
            try:
                return call(*args, **kwargs)
            finally:
                self.charge()
                self.stack.pop()

        self.watched.append((owner, name, call))
        setattr(owner, name, timed)

    def stop(self) -> None:
        """Put back what is watched."""
        for owner, name, call in reversed(self.watched):
            setattr(owner, name, call)

    def watch_model(self, model: Any) -> None:
        """The parts of a detector, ours or torchvision's."""
        self.watch(model.transform, "forward", "targets, normalization, padding")
        self.watch(model.backbone.body, "forward", "backbone")
        self.watch(model.backbone.fpn, "forward", "feature pyramid")
        if hasattr(model, "head"):
            self.watch(model.head, "forward", "heads")
            own = hasattr(model, "_losses")
            self.watch(model, "_losses" if own else "compute_loss", "matching, sampling, losses")
            return
        rpn, heads = model.rpn, model.roi_heads
        losses = "matching, sampling, losses"
        self.watch(rpn, "forward", "proposals")
        self.watch(rpn, "assign_targets_to_anchors", losses)
        self.watch(rpn, "_losses" if hasattr(rpn, "_losses") else "compute_loss", losses)
        own = hasattr(heads, "_sample")
        self.watch(heads, "_sample" if own else "select_training_samples", losses)
        for name in ("box_roi_pool", "mask_roi_pool"):
            self.watch(getattr(heads, name), "forward", "pooling of regions")
        for name in ("box_head", "box_predictor", "mask_head", "mask_predictor"):
            self.watch(getattr(heads, name), "forward", "heads")

    def watch_functions(self) -> None:
        """What is no method of a model."""
        import torchvision.models.detection.roi_heads as torchvisions

        losses = "matching, sampling, losses"
        for name in ("_box_losses", "_mask_loss"):
            self.watch(roi_heads, name, losses)
        for name in ("fastrcnn_loss", "maskrcnn_loss"):
            self.watch(torchvisions, name, losses)
        for module in (mask_rcnn, retinanet):
            self.watch(module, "check_targets", "targets, normalization, padding")
        self.watch(torch.Tensor, "backward", "backward")
        self.watch(torch.optim.SGD, "step", "clipping, optimizer")
        self.watch(torch.optim.SGD, "zero_grad", "clipping, optimizer")
        self.watch(nn.utils, "clip_grad_norm_", "clipping, optimizer")


class TimedData:
    """Batches whose making is a part of its own.

    Args:
        batches: makes an iterator.
    """

    def __init__(self, batches: Iterator[Any], parts: Parts) -> None:
        self.batches, self.parts = batches, parts
        parts.watch(self, "take", "data")

    def take(self) -> Any:
        """The next batch."""
        return next(self.batches)

    def __iter__(self) -> TimedData:
        return self

    def __next__(self) -> Any:
        return self.take()


def check_equal(case: Case, ours: Any, theirs: nn.Module, inputs: Any) -> None:
    """The gate: losses and gradients of a step are torchvision's, worker by worker."""
    ours, theirs = copy.deepcopy(ours), copy.deepcopy(theirs)
    images, targets, generators = inputs
    states = [generator.get_state() for generator in generators]
    losses = ours(images, targets, generators)
    sum(losses.values()).backward()
    expected: dict[str, float] = defaultdict(float)
    for worker, state in enumerate(states):
        torch.set_rng_state(state)
        chosen = slice(worker * PER_WORKER, (worker + 1) * PER_WORKER)
        found = theirs(images[chosen], plain_targets(case, targets[chosen]))
        (sum(found.values()) / WORKERS).backward()
        for name, loss in found.items():
            expected[name] += loss.item() / WORKERS
    for name, loss in losses.items():
        assert abs(loss.item() - expected[name]) < 1e-4 * expected[name] + 1e-6, (case.name, name)
    others = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        other = others[name].grad
        assert other is not None
        assert (parameter.grad - other).norm() <= 2e-3 * other.norm() + 1e-6, (case.name, name)


def plain_targets(case: Case, targets: Any) -> plain_detection.Targets:
    """torchvision's RetinaNet counts labels from 0."""
    less = 1 if case.model.startswith("retinanet") else 0
    return [
        {"boxes": one["boxes"], "labels": one["labels"] - less, "masks": one["masks"]}
        for one in targets
    ]


def plain_batches(case: Case, data: AnnotatedBatches) -> plain_detection.Images:
    """Training images for the plain loop, decoded."""
    split, size = data.data.train, Size(None, 0)
    chosen = split.with_objects[:PLAIN_IMAGES]
    targets = [make_target(split, index, size)[0] for index in chosen]
    images = [read_image(split, index, size)[0] for index in chosen]
    return plain_detection.Images(images, plain_targets(case, targets), IMAGES)


class Turns:
    """The two processes, one of which waits while the other one runs."""

    def __init__(self, mine: Any, others: Any) -> None:
        self.mine, self.others = mine, others

    def wait(self) -> None:
        """Until the other process has ended its turn."""
        self.mine.acquire()

    def end(self) -> None:
        """Let the other process run."""
        self.others.release()


def run_case(case: Case, data: AnnotatedBatches, rounds: int, turns: Turns) -> dict[str, Any]:
    """Seconds of every round, bytes of memory, and seconds in the parts of a step, of each side."""
    config, parts = case.config, Parts()
    model = build(config, data, "cpu")
    task = make_task(config, data, model, ALONE)
    theirs = plain_detection.detector(model, data.data.train.images[0].width)
    (part,) = task.split(next(data.train(task.steps(1)[:1])), task.steps(1)[0], 0.0)
    check_equal(case, model.train(), theirs, part.inputs)
    parts.begin(OURS)
    batches = iter(TimedData(iter(plain_batches(case, data)), parts))
    lr = config.learning_rate * config.warmup_from
    loops = {PEER: plain_detection.Loop(theirs, batches, 1, lr, config.clip_norm or 0.0)}
    if case.norm == "bn":
        other = copy.deepcopy(theirs)
        loops[PER_PASS] = plain_detection.Loop(other, batches, WORKERS, lr, config.clip_norm or 0.0)
    sides = (OURS, *loops)
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    memory: dict[str, list[int]] = {side: [] for side in sides}
    mark, end_watch = 0.0, None

    def after_step(done: int, total: int) -> None:
        """Ours has taken a step; now the others."""
        nonlocal mark, end_watch
        parts.charge()
        note(OURS, done)
        for side, loop in loops.items():
            begin(side, done)
            loop.step()
            parts.charge()
            note(side, done)
        turns.end()
        if done == WARM_UP + rounds + FOR_MEMORY:
            parts.watch_functions()
            for watched in (model, *(loop.model for loop in loops.values())):
                parts.watch_model(watched)
            parts.seconds.clear()
        if done == WARM_UP + rounds + FOR_MEMORY + FOR_PARTS:
            raise Finished
        turns.wait()
        begin(OURS, done + 1)

    def begin(side: str, number: int) -> None:
        nonlocal mark, end_watch
        if WARM_UP + rounds < number <= WARM_UP + rounds + FOR_MEMORY:
            end_watch = watch_peak(CPU)
        parts.begin(side)
        mark = time.process_time()

    def note(side: str, number: int) -> None:
        if WARM_UP < number <= WARM_UP + rounds:
            seconds[side].append(time.process_time() - mark)
        elif WARM_UP + rounds < number <= WARM_UP + rounds + FOR_MEMORY and end_watch is not None:
            memory[side].append(end_watch() or 0)

    timed = data.train
    data.train = lambda *args: TimedData(timed(*args), parts)  # type: ignore
    turns.wait()
    try:
        train(config, model, task, on_step=after_step)
    except Finished:
        parts.stop()
        data.train = timed  # type: ignore[method-assign]
    of_parts = {
        side: {part: spent / FOR_PARTS for part, spent in found.items()}
        for side, found in parts.seconds.items()
    }
    return {"seconds": seconds, "memory": memory, "parts": of_parts}


def run_cases(kept: bool, names: list[str], rounds: int, turns: Turns, found: Any) -> None:
    """What one of the two processes does."""
    torch.set_num_threads(1)
    if kept and not keep_large_blocks():
        raise SystemExit("keep_large_blocks: this is not glibc")
    data = load(CASES[0].config, "cpu", None)
    for case in CASES:
        if case.name in names:
            torch.manual_seed(0)
            found.put((case.name, kept, run_case(case, data, rounds, turns)))


def measure(names: list[str], rounds: int) -> dict[tuple[str, bool], dict[str, Any]]:
    """(case, whether blocks were kept) -> what `run_case` returned."""
    spawn = multiprocessing.get_context("spawn")
    semaphores = spawn.Semaphore(1), spawn.Semaphore(0)
    queue = spawn.Queue()
    processes = []
    for kept in (False, True):
        turns = Turns(semaphores[kept], semaphores[not kept])
        arguments = (kept, names, rounds, turns, queue)
        processes.append(spawn.Process(target=run_cases, args=arguments, daemon=True))
        processes[-1].start()
    results: dict[tuple[str, bool], dict[str, Any]] = {}
    while len(results) < 2 * len(names):
        try:
            name, kept, found = queue.get(timeout=10)
        except Empty:
            if any(process.exitcode for process in processes):
                raise SystemExit("a process has failed") from None
            continue
        results[name, kept] = found
        print(f"{name}, {'kept' if kept else 'new'} memory: done", flush=True)
    return results


def quartiles(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": middle, "low": low, "high": high}


def rows_of(case: Case, new: dict[str, Any], kept: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for each side: times, and how many times faster ours is, by the rounds."""
    rows = []
    for side in new["seconds"]:
        row: dict[str, Any] = {"case": case.name, "side": side}
        for name, found in (("new_memory", new), ("kept_memory", kept)):
            seconds = found["seconds"][side]
            row[name] = {
                "cpu_seconds": quartiles(seconds),
                "images_per_second": IMAGES / statistics.median(seconds),
                "step_memory_bytes": statistics.median(found["memory"][side]),
            }
            row[name]["parts"] = found["parts"][side]
        if side != OURS:
            theirs, theirs_kept = new["seconds"][side], kept["seconds"][side]
            ours, ours_kept = new["seconds"][OURS], kept["seconds"][OURS]
            for name, others, own in (
                ("times_faster", theirs, ours),
                ("times_faster_both_kept", theirs_kept, ours_kept),
                ("times_faster_ours_kept", theirs, ours_kept),
            ):
                row[name] = quartiles([t / o for t, o in zip(others, own, strict=True)])
        rows.append(row)
    return rows


def main() -> None:
    """Measure, print, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--only", help="cases whose name contains this")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    cases = [case for case in CASES if (arguments.only or "") in case.name]
    load(CASES[0].config, "cpu", None)  # made once, before the processes look for it
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    found = measure([case.name for case in cases], arguments.rounds)
    rows = []
    for case in cases:
        rows += rows_of(case, found[case.name, False], found[case.name, True])
    show(rows)
    record = {
        "command": f"python benchmarks/bench_detection.py --rounds {arguments.rounds}",
        "environment": {**environment(), "torchvision": torchvision.__version__},
        "workers": WORKERS,
        "batch_per_worker": PER_WORKER,
        "image_side": 96,
        "rows": rows,
    }
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def show(rows: list[dict[str, Any]]) -> None:
    """The rows in the terminal."""
    for row in rows:
        cells = [f"{row['case']:22} {row['side']:30}"]
        for name in ("new_memory", "kept_memory"):
            of_row, seconds = row[name], row[name]["cpu_seconds"]
            cells.append(
                f"{name} {of_row['images_per_second']:5.1f} images/s "
                f"({IMAGES / seconds['high']:.1f} to {IMAGES / seconds['low']:.1f}), "
                f"{of_row['step_memory_bytes'] / 1e6:.0f} MB;"
            )
        for name, ratio in row.items():
            if name.startswith("times_faster"):
                cells.append(f"{name} {ratio['median']:.2f}")
        print(*cells)


if __name__ == "__main__":
    main()
