"""Means over seeds, and when two of them differ clearly."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from statistics import fmean, stdev

from groupnorm.study.results.format import rounded

# A difference counts as clear when it is larger than this many spreads.
CLEAR = 2.0


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds. `spread` is the sample standard deviation, None for a single seed."""

    mean: float
    spread: float | None
    seeds: int


@dataclass(frozen=True)
class Comparison:
    """How far `a` lies above `b`.

    Attributes:
        difference: mean of `a` minus mean of `b`, percentage points.
        shown: the difference of the two means as tables print them, with one decimal.
        spread: the larger of both spreads; None when either has a single seed.
        clear: the difference exceeds `CLEAR` spreads; None without a spread.
    """

    difference: float
    shown: Decimal
    spread: float | None
    clear: bool | None


def estimate(values: Iterable[float]) -> Estimate | None:
    """Mean and sample standard deviation of `values`; None when there are none."""
    listed = list(values)
    if not listed:
        return None
    return Estimate(fmean(listed), stdev(listed) if len(listed) > 1 else None, len(listed))


def compare(a: Estimate, b: Estimate) -> Comparison:
    """Compare two means with the larger of their spreads over seeds."""
    difference = a.mean - b.mean
    shown = rounded(a.mean, 1) - rounded(b.mean, 1)
    if a.spread is None or b.spread is None:
        return Comparison(difference, shown, None, None)
    spread = max(a.spread, b.spread)
    return Comparison(difference, shown, spread, abs(difference) > CLEAR * spread)
