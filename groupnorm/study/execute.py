"""A study from beginning to end: plan, check, train, report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from groupnorm import data as datasets
from groupnorm.counts import counted
from groupnorm.environment import software
from groupnorm.files import describe_os_error, write_atomic
from groupnorm.printable import print_line
from groupnorm.run.tasks import reported_metric
from groupnorm.study.conversions.conversion_pass import convert_teachers
from groupnorm.study.cost_pass import measure_costs, skip_costs
from groupnorm.study.plan import Plan, PlanError, Stage
from groupnorm.study.report.page import build_report
from groupnorm.study.results.compare import compared_tables
from groupnorm.study.results.costs import read_cost_pass
from groupnorm.study.results.labels import label_text
from groupnorm.study.runners.local import available_cores, run_trials
from groupnorm.study.runners.progress import StudyProgress, pixels_of
from groupnorm.study.runners.ray.cluster import run_trials_on_cluster
from groupnorm.study.runners.ray.connection import Cluster, check_gpus, check_ray
from groupnorm.study.runners.track import TrackedProgress, check_track
from groupnorm.study.sample_pass import predict_samples
from groupnorm.study.store import (
    FORMAT,
    Record,
    StoreError,
    check_study_place,
    locked_folder,
    read_config,
    read_manifest,
    read_record,
    read_samples,
    run_folder,
    run_is_done,
    to_json,
)
from groupnorm.training.config import TrainingConfig
from groupnorm.training.device import check_device
from groupnorm.training.metric import CLASSIFICATION

if TYPE_CHECKING:
    from groupnorm.data.batches import DataSet


@dataclass(frozen=True)
class StudyOutcome:
    """Where the report is, the record of every run, and how many trials of conversions failed."""

    report: Path
    records: list[Record]
    failed_trials: int = 0


def run_study(
    plan: Plan,
    out: Path,
    *,
    jobs: int | None = None,
    device: str = "cpu",
    data_root: Path | None = None,
    command: str = "",
    console: Console | None = None,
    cluster: Cluster | None = None,
    track: str | None = None,
    stop_at_first_failure: bool = False,
) -> StudyOutcome:
    """Train what is missing of `plan` in the folder `out` and write its report.

    Starting again on the same folder finishes what is missing and continues what is half done. A
    plan with more, or fewer, seeds, norms or batch sizes of the same experiment on the same data
    takes the folder over: every run whose configuration is unchanged is reused, and the report
    shows what this plan asks for. No other run enters it.

    Args:
        jobs: trials at a time; by default one for every core, or as many as the cluster holds. The
            machine's cores are divided among them.
        command: how a user repeats the study; recorded and shown in the report.
        cluster: the Ray cluster that the trials run on; without one, processes on this machine.
        track: "tensorboard" writes every run's curves to `out`/tensorboard.
        stop_at_first_failure: when a trial fails, stop the others and train nothing more.

    Raises:
        PlanError: jobs below 1, or `out` holds another experiment or a study of other data.
        ValueError, RuntimeError: a device that is unknown, or not there.
        ClusterError: Ray is missing, or the cluster does not answer or fit; see
            `run_trials_on_cluster`.
        TrackError: `track` is unknown, or its package is missing.
        DataError: the data set is missing or damaged.
        StoreError: `out` is damaged, belongs to a run, or cannot be written to.
        LockedError: another process is at work on `out`.
    """
    if jobs is not None and jobs < 1:
        raise PlanError(f"jobs must be at least 1, got {jobs}")
    check_study_place(out)
    if track is not None:
        check_track(track)
    check_device(device, here=cluster is None)
    if cluster is not None:
        check_ray()
        check_gpus(cluster, device)
    read = [datasets.load_any(name, data_root) for name in plan.data_sets]
    _check_images({**plan.initial, **plan.configs}, read, data_root)
    manifest = _manifest(plan, read, command)
    compared_tables(manifest)  # an unknown one is found before the trials, not after them
    refusal = f"another study is at work in {out}; wait for it, or choose another --out"
    try:
        with locked_folder(out, refusal):
            before = _claim(out, manifest)
            read_cost_pass(out), read_samples(out)  # damage is found before the trials, not after
            console = console or Console(emoji=False)
            if plan.next_stage is None and (left := _not_shown(before, out)):
                print_line(console, left)
            for note in dict.fromkeys(note for images in read for note in images.notes):
                print_line(console, f"note: {note}")
            if plan.prepare is not None:
                print_line(console, plan.prepare(out, data_root))
            setup = _Setup(out, jobs, device, data_root, cluster, stop_at_first_failure)
            names: dict[str, None] = {}  # in order
            for stage in chain(_initial_stages(plan), _stages(plan, out)):
                if stage.cells is not None:
                    plan = replace(plan, cells=stage.cells)
                    _claim(out, _manifest(plan, read, command))
                _check_images(stage.configs, read, data_root)
                print_line(console, _work_ahead(stage, out))
                metric = stage.metric or plan.metric
                about = (stage.configs, console, stage.stop_epoch, metric, pixels_of(read[0]))
                show = StudyProgress(*about) if track is None else TrackedProgress(out, *about)
                show.names |= _names_of_arms(plan, stage)
                with show as progress:
                    records = _train(stage, setup, progress)
                names |= dict.fromkeys(stage.configs)
                needed = stop_at_first_failure or not stage.configs.keys() <= plan.initial.keys()
                if needed and any(record.status == "failed" for record in records):
                    break
            else:
                if plan.final_cells is not None:
                    plan = replace(plan, cells=plan.final_cells(out))
                    _claim(out, _manifest(plan, read, command))
            if plan.next_stage is not None and (left := _not_shown(before, out)):
                print_line(console, left)
            runs = dict.fromkeys(cell.run for cell in plan.cells)
            records = [read_record(out, name) for name in names | runs]
            failed_trials = 0
            if not (stop_at_first_failure and any(r.status == "failed" for r in records)):
                tell = partial(print_line, console)
                _time_steps(plan, list(runs), setup, tell)
                predict_samples(out, plan.cells, data_root, tell)
                if plan.conversions:
                    if cluster is not None:
                        tell("conversions are done on this machine, not on the cluster")
                    failed_trials = convert_teachers(
                        out, plan.cells, plan.conversions, jobs=setup.jobs_at_most,
                        device=device, data_root=data_root, console=console,
                    )  # fmt: skip
            return StudyOutcome(build_report(out), records, failed_trials)
    except BrokenPipeError:  # of the output: nobody reads it any more
        raise
    except OSError as error:
        raise StoreError(
            f"{describe_os_error(error)}; what was finished is kept in {out}, and the same command "
            "goes on from it once that is mended"
        ) from error


@dataclass(frozen=True)
class _Setup:
    """How a study's trials run: in which folder, and as `run_study` was asked to."""

    out: Path
    jobs: int | None
    device: str
    data_root: Path | None
    cluster: Cluster | None
    stop_at_first_failure: bool

    @property
    def jobs_at_most(self) -> int:
        """How many trials run at a time on this machine, if there are enough."""
        return self.jobs or (available_cores() if self.device == "cpu" else 1)

    def share(self, trials: int) -> tuple[int, int]:
        """How many of so many trials run at a time on this machine, and the threads of each."""
        jobs = min(self.jobs_at_most, max(1, trials))
        return jobs, max(1, available_cores() // jobs)


def _stages(plan: Plan, out: Path) -> Iterator[Stage]:
    """The stages of a plan, each computed when those before it are done."""
    if plan.next_stage is None:
        yield Stage(plan.configs)
        return
    before = None
    while (stage := plan.next_stage(out)) is not None:
        if stage == before:
            raise RuntimeError(f"{plan.study}: the stage that was done is given again: {stage}")
        yield stage
        before = stage


def _initial_stages(plan: Plan) -> Iterator[Stage]:
    """The runs that others start from, those first that start from none of the others."""
    waiting = dict(plan.initial)
    while waiting:
        ready = {name: c for name, c in waiting.items() if c.init not in waiting}
        metric = reported_metric(next(iter(ready.values())))
        yield Stage(ready, about="weights to start from", metric=metric)
        waiting = {name: c for name, c in waiting.items() if name not in ready}


def _names_of_arms(plan: Plan, stage: Stage) -> dict[str, str]:
    """What the runs of a stage are called that arms are made of: by arm and seed.

    Of one that stands for several numbers of images per worker these are left out.
    """
    if plan.shows not in ("arms", "fine-tuning", "conversions"):
        return {}
    cells_of = Counter(cell.run for cell in plan.cells)
    names: dict[str, dict[str, None]] = {}
    for cell in plan.cells:
        once = plan.shows == "fine-tuning" and cells_of[cell.run] > 1
        name = cell.labels["arm"] if once else label_text(cell.labels)
        names.setdefault(cell.run, {})[f"{name}, seed {cell.seed}"] = None
    return {run: "; ".join(found) for run, found in names.items() if run in stage.configs}


def _work_ahead(stage: Stage, out: Path) -> str:
    """How many runs of a stage are there already, begun, and new."""
    records = [read_record(out, name) for name in stage.configs]
    left = [record for record in records if not run_is_done(record, stage.stop_epoch)]
    begun = sum(bool(record.metrics) for record in left)
    until = "" if stage.stop_epoch is None else f" up to epoch {stage.stop_epoch}"
    about = f"{stage.about}: " if stage.about else ""
    runs = counted(len(records), "run")
    return (
        f"{about}{runs}{until}: {len(records) - len(left)} reused, {begun} continued, "
        f"{len(left) - begun} to train"
    )


def _train(stage: Stage, setup: _Setup, progress: StudyProgress) -> list[Record]:
    """Finish the runs of a stage, here or on the cluster."""
    configs = dict(sorted(stage.configs.items(), key=lambda item: _turn(item[1])))
    if setup.cluster is not None:
        return run_trials_on_cluster(
            setup.out,
            configs,
            progress,
            cluster=setup.cluster,
            jobs=setup.jobs,
            device=setup.device,
            data_root=setup.data_root,
            stop_epoch=stage.stop_epoch,
            stop_at_first_failure=setup.stop_at_first_failure,
        )
    jobs, threads = setup.share(len(configs))
    return run_trials(
        setup.out,
        configs,
        progress,
        jobs=jobs,
        threads=threads,
        device=setup.device,
        data_root=setup.data_root,
        stop_epoch=stage.stop_epoch,
        stop_at_first_failure=setup.stop_at_first_failure,
    )


def _turn(config: TrainingConfig) -> tuple[int, int, bool]:
    """When it is the turn of a run: seed by seed, so that a whole table of the first one is
    there early, and within a seed the longest first, so that no core waits long at the end."""
    return config.seed, config.step_images, not config.uses_batch_statistics


def _time_steps(
    plan: Plan, runs: list[str], setup: _Setup, on_message: Callable[[str], None]
) -> None:
    """Time the training steps of the runs of the tables, or say why that is not done."""
    if setup.cluster is not None:
        skip_costs(setup.out, "the trials ran on the nodes of a cluster")
    elif plan.untimed is not None:
        skip_costs(setup.out, plan.untimed)
    else:
        found = {name: read_config(run_folder(setup.out, name)) for name in runs}
        measure_costs(
            setup.out,
            {name: config for name, config in found.items() if config is not None},
            threads=setup.share(len(runs))[1],
            device=setup.device,
            data_root=setup.data_root,
            on_message=on_message,
        )


def _check_images(
    configs: Mapping[str, TrainingConfig], of_study: Sequence[DataSet], data_root: Path | None
) -> None:
    """Raise PlanError for a run that needs more training images than there are.

    Initial runs may have other data than the study, which is read here.
    """
    read = {images.name: images for images in of_study}
    for config in configs.values():
        if config.data not in read:
            read[config.data] = datasets.load_any(config.data, data_root)
        images, left_out = read[config.data], config.validation_images or 0
        available = images.train_size - left_out
        if available < max(config.step_images, config.train_images or 0):
            what = f"a step of {config.workers} x {config.batch_per_worker} images"
            if config.train_images:
                what += f" from {config.train_images}"
            besides = f" besides the {left_out} validation images" if left_out else ""
            raise PlanError(
                f"{what} needs more than the {available} training images of {images.name}{besides}"
            )


def _data(read: Sequence[DataSet]) -> dict[str, Any]:
    """What `study.json` says of the data; of several sets their names and versions alone."""
    names, versions = (
        ", ".join(texts)
        for texts in zip(*((images.name, images.version) for images in read), strict=True)
    )
    if len(read) > 1:
        return {"name": names, "version": versions}
    (images,) = read
    data: dict[str, Any] = {
        "name": names,
        "version": versions,
        "train": images.train_size,
        "test": images.test_size,
        "classes": images.num_classes,
    }
    if ceilings := getattr(images, "ceilings", None):  # of videos, by the stride of clips
        data["ceilings"] = {str(stride): percent for stride, percent in ceilings.items()}
    return data


def _manifest(plan: Plan, read: Sequence[DataSet], command: str) -> dict[str, Any]:
    data = _data(read)
    manifest = {
        "format": FORMAT,
        "study": plan.study,
        "title": plan.title,
        "command": command,
        "protocol": plan.protocol,
        "scale": plan.scale,
        "data": data,
        "options": plan.options,
        "cells": [{"labels": c.labels, "seed": c.seed, "run": c.run} for c in plan.cells],
        "skipped": plan.skipped,
        "shows": plan.shows,
        "published": list(plan.published),
        "tuned_over": plan.tuned_over,
        "tuning": None if plan.tuning is None else plan.tuning(data),
        "search": None if plan.search is None else plan.search(data),
        "versions": {key: value for key, value in software().items() if key != "kernels"},
    }
    if plan.metric != CLASSIFICATION[0]:  # records of classifiers stay as they were
        manifest["metric"] = asdict(plan.metric)
    if plan.also:
        manifest["also"] = [asdict(metric) for metric in plan.also]
    if plan.findings:
        manifest["findings"] = [finding.as_json() for finding in plan.findings]
    if plan.conversions:
        manifest["conversions"] = {n: found.as_json() for n, found in plan.conversions.items()}
    return manifest


def _claim(out: Path, manifest: dict[str, Any]) -> dict[str, Any] | None:
    """Make the folder's `study.json` that of this command, or find that it holds another study.

    What it shows is wholly the newest command's; the versions stay those that the study began
    with, because every run has its own.

    Returns:
        The manifest that was there; None in a new folder.
    """
    path = out / "study.json"
    if not path.exists():
        write_atomic(path, to_json(manifest))
        return None
    existing = read_manifest(out)
    made = f"{existing['title']}, made by {existing['command']!r}"
    if existing["study"] != manifest["study"]:
        raise PlanError(
            f"{out} holds another experiment, {existing['study']} ({made}), not "
            f"{manifest['study']}; choose another --out"
        )
    before, now = existing["data"], manifest["data"]
    if before["name"] != now["name"]:
        raise PlanError(
            f"{out} holds a study of other data, {before['name']} ({made}), not {now['name']}; "
            "choose another --out"
        )
    changes = [
        f"{name} was {before.get(key)}, is {now.get(key)}"
        for key, name in _DATA_WORDS.items()
        if before.get(key) != now.get(key)
    ]
    if changes:
        raise PlanError(
            f"the data has changed since the study in {out} began: {', '.join(changes)}. Its runs "
            "would not be comparable: restore the data, or begin a new study with another --out"
        )
    cells = manifest["cells"] or _cells_kept(existing, manifest)
    write_atomic(path, to_json({**manifest, "cells": cells, "versions": existing["versions"]}))
    return existing


def _cells_kept(existing: dict[str, Any], manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The cells that a tuned study goes on showing while it tries values that it had not tried."""
    field = manifest["tuned_over"]
    if not manifest["tuning"] or not existing.get("tuning") or existing["tuned_over"] != field:
        return []
    asked = [{**cell["labels"], field: None} for cell in manifest["tuning"]["cells"]]
    return [cell for cell in existing["cells"] if {**cell["labels"], field: None} in asked]


def _not_shown(before: dict[str, Any] | None, out: Path) -> str:
    """What the tables showed before this command and do not show now; empty for nothing."""
    if before is None:
        return ""
    now = {cell["run"] for cell in read_manifest(out)["cells"]}
    left = len({cell["run"] for cell in before["cells"]} - now)
    runs = counted(left, "run")
    text = f"{runs} of the command before, {before['command']!r}: kept in {out}, but not shown"
    return text if left else ""


_DATA_WORDS = {
    "version": "its version (the names and sizes of its files, and their classes)",
    "train": "the number of training images",
    "test": "the number of test images",
    "classes": "the number of classes",
}
