"""The pass of a study that measures what a training step takes, when no trial runs.

The throughput of trials compares nothing: they share the machine, and the last of an odd number has
it to itself. So every configuration is timed here, in one process with a trial's number of threads,
and all of them in turns.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from groupnorm.cost.timing import time_in_turns
from groupnorm.counts import counted
from groupnorm.environment import environment
from groupnorm.files import first_line, write_atomic
from groupnorm.memory import keep_large_blocks
from groupnorm.run import setup_of
from groupnorm.study.results.costs import CostPass, read_cost_pass
from groupnorm.study.store import COST_FILE, read_record, to_json
from groupnorm.training.config import TrainingConfig

# What runs may differ in while their training steps take the same time.
_SAME_STEP = (
    "seed", "epochs", "steps", "schedule", "warmup_epochs", "base_lr", "momentum", "nesterov",
    "weight_decay", "train_images", "validation_images", "zero_gamma", "size_schedule",
    "reported_epochs", "evaluate_every", "init", "drops", "warmup_steps", "warmup_from",
    "decay_norms", "clip_norm", "test_clips", "test_crops", "init_norms",
    "init_offset_limit",
)  # fmt: skip
# What runs may differ in and read the same data.
_SAME_DATA = (
    "seed", "model", "norm", "norms", "init", "init_norms", "init_offset_limit", "workers",
    "batch_per_worker", "epochs", "steps", "base_lr",
)  # fmt: skip

CONVERTED = "its norms are converted with the weights that it starts from, which are not read here"
"""Why a configuration is not timed: without them it would be another network."""


def measure_costs(
    out: Path,
    configs: Mapping[str, TrainingConfig],
    *,
    threads: int,
    device: str = "cpu",
    data_root: Path | None = None,
    on_message: Callable[[str], None] = lambda text: None,
) -> None:
    """Time the training step of every configuration with a finished run, and write `cost.json`.

    One whose network is converted has no times.

    What is there stays, unless a configuration is missing from it or a spread is too wide: then all
    are measured anew, because only times that were taken in turns can be compared. What prevents
    the measurement is reported and recorded in place of times; no run depends on it.

    Args:
        configs: the runs of a study by name.
        threads: of a trial.
    """
    finished = {n: c for n, c in configs.items() if read_record(out, n).status == "finished"}
    converted = {name: c for name, c in finished.items() if c.converted_part}
    finished = {name: c for name, c in finished.items() if name not in converted}
    if converted and not finished:
        skip_costs(out, CONVERTED)
    if not finished or finished.keys() <= read_cost_pass(out).times.keys():
        return
    left_out = None
    if converted:
        kinds = counted(len(same_step(converted)), "configuration")
        left_out = f"Of {kinds} the step is not timed: {CONVERTED}."
    groups = same_step(finished)
    on_message(f"timing a training step of {counted(len(groups), 'configuration')} in turns")
    try:
        rounds, found, machine = _measure(groups, finished, threads, device, data_root)
    except (RuntimeError, MemoryError) as error:
        reason = f"the measurement failed: {first_line(error)}"
        on_message(f"no times can be compared: {reason}")
        skip_costs(out, reason)
        return
    lines = [{"runs": names, **found[names[0]]} for names in groups]
    write_atomic(
        out / COST_FILE, to_json(CostPass(rounds, lines, machine, None, left_out).as_json())
    )


def skip_costs(out: Path, reason: str) -> None:
    """Record why nothing is timed; times that are there stay."""
    if not read_cost_pass(out).times:
        write_atomic(out / COST_FILE, to_json(CostPass(0, [], {}, reason).as_json()))


def same_step(configs: Mapping[str, TrainingConfig]) -> list[list[str]]:
    """The names of the runs, together where the same training step is repeated."""
    groups: dict[str, list[str]] = {}
    for name, config in configs.items():
        fields = {k: v for k, v in config.identity().items() if k not in _SAME_STEP}
        groups.setdefault(json.dumps(fields, sort_keys=True), []).append(name)
    return list(groups.values())


def _measure(
    groups: list[list[str]],
    configs: Mapping[str, TrainingConfig],
    threads: int,
    device: str,
    data_root: Path | None,
) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """Rounds, the times by the first run of each group, and the machine."""
    keep_large_blocks()  # as in a trial
    with _threads(threads):
        loaded: dict[str, Any] = {}
        steps = {}
        for name, *_ in groups:
            config = configs[name]
            key = config.model_dump_json(exclude={*_SAME_DATA})
            if key not in loaded:
                loaded[key] = setup_of(config).load(config, device, data_root)
            data, setup = loaded[key], setup_of(config)
            steps[name] = setup.first_step(config, data, setup.build(config, data, device))
        rounds, found = time_in_turns(steps)
        return rounds, found, {**environment(), "device": device}


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
