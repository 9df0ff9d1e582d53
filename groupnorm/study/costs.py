"""What runs cost beside their accuracy: time per image, memory, arithmetic, the norms' share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, median

from groupnorm.study.store import Record, is_number

PER_IMAGE = ("forward", "backward", "data")
# key -> heading of the table, factor from the key's unit to the heading's, digits
COSTS: dict[str, tuple[str, float, int]] = {
    **{f"{part}_ms_per_image": (f"{part}, ms/image", 1.0, 3) for part in PER_IMAGE},
    "saved_bytes_per_image": ("saved for backward, MiB/image", 2.0**-20, 2),
    "training_gflops_per_image": ("GFLOPs/image", 1.0, 3),
    "norm_share": ("time in norms, %", 100.0, 1),
}


def run_cost(record: Record) -> dict[str, float]:
    """The costs that a run has recorded, by the keys of `COSTS`; empty for older records.

    Times are medians over the epochs, in milliseconds per image of the training step; backward
    includes the optimizer. The others stand in the run's environment (`measure_cost`).
    """
    found: dict[str, float] = {}
    timings = [row.get("timing", {}) for row in record.metrics]
    for part in PER_IMAGE:
        key = f"{part}_seconds"
        values = [
            1000.0 * timing[key] / timing["images"]
            for timing in timings
            if is_number(timing.get(key)) and timing.get("images")
        ]
        if values:
            found[f"{part}_ms_per_image"] = median(values)
    measured = record.env.get("cost") or {}
    for key, name, factor in (
        ("saved_bytes_per_image", "saved_bytes_per_image", 1.0),
        ("training_flops_per_image", "training_gflops_per_image", 1e-9),
        ("norm_share", "norm_share", 1.0),
    ):
        if is_number(measured.get(key)):
            found[name] = factor * measured[key]
    return found


def mean_cost(costs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of every cost over the runs that have it."""
    return {
        key: fmean(values)
        for key in COSTS
        if (values := [cost[key] for cost in costs if key in cost])
    }


def milliseconds(cost: Mapping[str, float]) -> float | None:
    """Time of a training step for one image: forward, backward and data; None without all three."""
    parts = [cost.get(f"{part}_ms_per_image") for part in PER_IMAGE]
    return None if None in parts else math.fsum(part for part in parts if part is not None)
