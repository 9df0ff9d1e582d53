"""What runs cost beside their accuracy: time per image, memory, arithmetic, the norms' share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from groupnorm.study.results.format import decimal_text
from groupnorm.study.store import FORMAT, Record, is_number, read_costs

WIDEST_SPREAD = 0.25
"""Times of a wider spread are not compared: differences between norms are smaller."""
TIMES = ("forward_ms_per_image", "backward_ms_per_image", "norm_share")
# key -> heading of the table, factor from the key's unit to the heading's, digits
COSTS: dict[str, tuple[str, float, int]] = {
    "forward_ms_per_image": ("forward, ms/image", 1.0, 3),
    "backward_ms_per_image": ("backward, ms/image", 1.0, 3),
    "saved_bytes_per_image": ("saved for backward, MiB/image", 2.0**-20, 2),
    "training_gflops_per_image": ("GFLOPs/image", 1.0, 3),
    "norm_share": ("time in norms, %", 100.0, 1),
}
NOT_MEASURED = "this record holds none that were taken in turns"


@dataclass(frozen=True)
class CostPass:
    """The times of training steps that a study took in turns (`cost_pass.measure_costs`).

    Attributes:
        rounds: how often each step was timed; 0 where nothing was.
        configurations: what was found for each, with the names of its `runs`.
        environment: versions, processor and threads of the measurement.
        reason: why there are no times; None where there are.
        left_out: a sentence on configurations without times; None where all have them.
    """

    rounds: int = 0
    configurations: list[dict[str, Any]] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    reason: str | None = NOT_MEASURED
    left_out: str | None = None

    @property
    def spreads(self) -> dict[str, float]:
        """By run: half of its rounds lie within this part of their median."""
        return {name: line["spread"] for line in self.configurations for name in line["runs"]}

    @property
    def times(self) -> dict[str, dict[str, float]]:
        """The times of every run, by the keys of `TIMES`; none where a spread is too wide."""
        if any(spread > WIDEST_SPREAD for spread in self.spreads.values()):
            return {}
        return {
            name: {key: found[key] for key in TIMES}
            for found in self.configurations
            for name in found["runs"]
        }

    def as_json(self) -> dict[str, Any]:
        """The content of `cost.json`."""
        return {"format": FORMAT, **vars(self)}


def read_cost_pass(out: Path) -> CostPass:
    """What `cost.json` of a study holds; a study without one has no times.

    Raises:
        StoreError: the file is damaged.
    """
    costs = read_costs(out)
    if costs is None:
        return CostPass()
    del costs["format"]
    return CostPass(**costs)


def how_timed(found: CostPass) -> str:
    """How the times of a study were taken, or why there are none, in a sentence or two."""
    if found.reason is not None:
        return (
            f"Times are not compared: {found.reason}. Trials share the machine, and the speed of "
            "one depends on how many run beside it."
        )
    widest = max(found.spreads.values())
    within = f"{decimal_text(100 * widest)} % of its median"
    if widest > WIDEST_SPREAD:
        return (
            f"Times are not compared: half of the {found.rounds} rounds of one configuration lie "
            f"within {within}, and more than {decimal_text(100 * WIDEST_SPREAD, 0)} % is too much. "
            "Something else was busy on the machine; the command of the study measures again."
        )
    threads = found.environment.get("threads")
    left_out = f" {found.left_out}" if found.left_out else ""
    return (
        f"Times are medians of {found.rounds} rounds in which all configurations took turns, one "
        f"training step each, while no trial ran: in one process with {threads} "
        f"{'thread' if threads == 1 else 'threads'}, torch {found.environment.get('torch')}, on "
        f"{found.environment.get('cpu')}. Half of each configuration's rounds lie within "
        f"{within}; differences below that mean nothing. "
        "Optimizer and data are not in the times; the time in norms is a share of both passes."
        f"{left_out}"
    )


def run_cost(record: Record, times: Mapping[str, float] | None = None) -> dict[str, float]:
    """The costs of a run, by the keys of `COSTS`; empty for older records without times.

    Memory and arithmetic stand in the run's environment; `times` are those of its `CostPass`.
    """
    found = dict(times or {})
    counted = record.env.get("cost") or {}
    for key, name, factor in (
        ("saved_bytes_per_image", "saved_bytes_per_image", 1.0),
        ("training_flops_per_image", "training_gflops_per_image", 1e-9),
    ):
        if is_number(counted.get(key)):
            found[name] = factor * counted[key]
    return found


_TIMED = ("seconds", "images", "data_seconds", "forward_seconds", "backward_seconds")
SPENT = ("data", "forward", "backward and optimizer", "evaluation and saving")
"""Into what the time of a run is divided; what is left of it are the steps' other parts."""


@dataclass(frozen=True)
class TimeSpent:
    """Where the time of a run went.

    Attributes:
        milliseconds: of training, for an image.
        shares: by the names of `SPENT`, of all the run's seconds, from 0 to 1.
    """

    milliseconds: float
    shares: dict[str, float]


def time_spent(record: Record) -> TimeSpent | None:
    """Where the time of all epochs of a run went; None where an epoch does not say it in full."""
    sums = dict.fromkeys(_TIMED, 0.0)
    training = 0.0
    for row in record.metrics:
        timing = row.get("timing", {})
        if not all(is_number(timing.get(key)) for key in (*_TIMED, "images_per_second")):
            return None
        if timing["images_per_second"] <= 0:
            return None
        sums = {key: total + timing[key] for key, total in sums.items()}
        training += timing["images"] / timing["images_per_second"]
    seconds, images = sums["seconds"], sums["images"]
    if not seconds or not images:
        return None
    parts = [sums[f"{part}_seconds"] for part in ("data", "forward", "backward")]
    shares = [part / seconds for part in (*parts, seconds - training)]
    return TimeSpent(1000 * training / images, dict(zip(SPENT, shares, strict=True)))


def mean_cost(costs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of every cost over the runs that have it."""
    return {
        key: fmean(values)
        for key in COSTS
        if (values := [cost[key] for cost in costs if key in cost])
    }


def milliseconds(cost: Mapping[str, float]) -> float | None:
    """Time of forward and backward pass for one image; None without both."""
    forward, backward = cost.get("forward_ms_per_image"), cost.get("backward_ms_per_image")
    return None if forward is None or backward is None else forward + backward
