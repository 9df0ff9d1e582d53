"""What a run has besides one number a metric: its values on parts of the test images, its curves.

A metric such as average precision is no mean over images, so that how much it owes to the images at
hand is not told by their number. Its values on parts of them, the same parts for every run, tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

from groupnorm.study.store import Record, is_number
from groupnorm.training.metric import CURVES, PARTS, Metric

ByPart = dict[int, float]


def part_results(
    metrics: Sequence[Mapping[str, Any]], metric: Metric, name: str, *, last: int
) -> ByPart:
    """The reported value on each part of the test images: the median over the last epochs.

    Args:
        metrics: the rows of a run, oldest first. Those without a value of `metric` are no epochs
            here.
        name: of the metric whose values are wanted.
        last: number of epochs, as `Study.reported_epochs`.

    Returns:
        By the number of the part. One that has no value in any of these epochs is left out.
    """
    evaluated = [row for row in metrics if row.get(metric.name) is not None][-last:]
    columns = [found for row in evaluated if (found := (row.get(PARTS) or {}).get(name))]
    values: dict[int, list[float]] = {}
    for column in columns:
        for part, value in enumerate(column):
            if is_number(value):
                values.setdefault(part, []).append(value)
    return {part: float(median(several)) for part, several in sorted(values.items())}


def mean_by_part(by_seed: Mapping[int, ByPart], seeds: Sequence[int]) -> ByPart:
    """The mean over `seeds` on every part for which each of them has a value."""
    columns = [by_seed[seed] for seed in seeds]
    common = set.intersection(*map(set, columns)) if columns else set()
    return {part: fmean(column[part] for column in columns) for part in sorted(common)}


def curves_of(record: Record) -> dict[str, list[float]]:
    """The curves of a run's last epoch that has any, by the metric that each is of.

    A curve of images without an object to find has no value, and is left out.
    """
    for row in reversed(record.metrics):
        if found := row.get(CURVES):
            return {name: curve for name, curve in found.items() if all(map(is_number, curve))}
    return {}
