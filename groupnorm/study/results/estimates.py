"""Means, differences of pairs, and their 95 % intervals by Student's t.

What is paired is a seed as a rule. Two configurations with the same seed see the same images in the
same order with the same augmentation. Much of what a seed does is therefore the same for both, and
the differences of the same seeds tell more than the two means do.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache
from itertools import count
from statistics import NormalDist, fmean, stdev
from typing import TypeVar

from groupnorm.study.results.format import rounded

CONFIDENCE = 0.95
POWER = 0.80
_NOISE = 1e-9  # spread of differences that are the same but for the rounding of floats

Interval = tuple[float, float]
Pair = TypeVar("Pair", bound=Hashable)


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds. `spread` is the sample standard deviation, None for a single seed."""

    mean: float
    spread: float | None
    seeds: int

    @property
    def interval(self) -> Interval | None:
        """The 95 % interval of the mean; None for a single seed."""
        return None if self.spread is None else _interval(self.mean, self.spread, self.seeds)


@dataclass(frozen=True)
class Difference:
    """How far `a` lies above `b`, over the seeds, or whatever is paired, that both have.

    Attributes:
        mean: mean of the differences.
        shown: the same as tables and texts print it. It has one decimal and is, where both have the
            same seeds, the difference of the two means as tables print them. Where the interval
            needs more decimals, or would leave that number out, it is `mean` with the decimals of
            the interval.
        spread: sample standard deviation of the differences; None for a single pair.
        pairs: number of seeds that both have, at least one.
        left_out: number of seeds that only one of the two has.
    """

    mean: float
    shown: Decimal
    spread: float | None
    pairs: int
    left_out: int

    @property
    def interval(self) -> Interval | None:
        """The 95 % interval of the mean difference.

        None for a single pair, and where all differences are the same: a spread of zero would
        stand for a certainty that a few seeds do not give.
        """
        return _interval(self.mean, self.spread, self.pairs) if self.spread else None

    @property
    def standard_error(self) -> float | None:
        """Of the mean difference; None where there is no interval."""
        return self.spread / math.sqrt(self.pairs) if self.spread else None

    @property
    def told_apart(self) -> bool | None:
        """Whether the interval leaves out 0; None without an interval."""
        if self.interval is None:
            return None
        low, high = self.interval
        return low > 0 or high < 0

    @property
    def negated(self) -> Difference:
        """How far `b` lies above `a`."""
        return Difference(-self.mean, -self.shown, self.spread, self.pairs, self.left_out)


def estimate(values: Iterable[float]) -> Estimate | None:
    """Mean and sample standard deviation of `values`; None when there are none."""
    listed = list(values)
    if not listed:
        return None
    return Estimate(fmean(listed), stdev(listed) if len(listed) > 1 else None, len(listed))


def paired_difference(a: Mapping[Pair, float], b: Mapping[Pair, float]) -> Difference | None:
    """`a` minus `b` over the pairs: the values of the keys that both have, None without any.

    Args:
        a: values by what pairs them: the seed, or anything else that both sides share. Each key is
            one pair, whose difference is taken to be independent of the others.
        b: those of the other side.
    """
    common = [pair for pair in a if pair in b]
    if not common:
        return None
    differences = [a[pair] - b[pair] for pair in common]
    mean = fmean(differences)
    spread = stdev(differences) if len(common) > 1 else None
    if spread is not None and spread < _NOISE:
        spread = 0.0
    left_out = len(a.keys() ^ b.keys())
    shown = rounded(mean, 1)
    if not left_out:
        shown = rounded(fmean(a.values()), 1) - rounded(fmean(b.values()), 1)
    found = Difference(mean, shown, spread, len(common), left_out)
    if found.interval is None:
        return found
    digits = interval_digits(found.interval)
    low, high = (rounded(end, digits) for end in found.interval)
    if digits == 1 and low <= shown <= high:
        return found
    return replace(found, shown=rounded(mean, digits))


def interval_digits(interval: Interval) -> int:
    """The decimals it is printed with: one, or more where one would hide its width or a sign."""
    low, high = interval
    digits = 1
    while digits < 4 and not all(rounded(value, digits) for value in (low, high, high - low)):
        digits += 1
    return digits


def seeds_needed(spread: float, points: float = 1.0) -> int:
    """The fewest seeds that tell a true difference of `points` in about 80 % of studies.

    To tell is to have a 95 % interval that leaves out 0. Needed is the fewest n, three or more, for
    which (t(95 %) + t(80 %)) spread / sqrt(n) <= points: the half width of the interval and, beyond
    it, what the measured difference falls short of the true one by in one study of five.

    Args:
        spread: sample standard deviation of the differences of paired seeds.
    """
    # Student's t lies above the normal quantile, so that no smaller number can do.
    quantiles = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) + NormalDist().inv_cdf(POWER)
    least = math.ceil((quantiles * spread / points) ** 2)
    return next(
        n
        for n in count(max(3, least))
        if (student_t(n - 1) + student_t(n - 1, 2 * POWER - 1)) * spread / math.sqrt(n) <= points
    )


@cache
def student_t(freedom: int, inside: float = CONFIDENCE) -> float:
    """The t for which Student's distribution lies between -t and t with probability `inside`."""
    low, high = 0.0, 20.0  # 12.7 with one degree of freedom, less with more
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (low, middle) if _within(middle, freedom) > inside else (middle, high)
    return high


def _within(t: float, freedom: int) -> float:
    """P(|T| <= t), the finite sums of Abramowitz & Stegun 1964, 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine_2 = math.cos(angle) ** 2
    term = total = 1.0 if freedom % 2 == 0 else math.cos(angle)
    for k in range(2 if freedom % 2 == 0 else 3, freedom, 2):
        term *= cosine_2 * (k - 1) / k
        total += term
    if freedom % 2 == 0:
        return math.sin(angle) * total
    return 2 / math.pi * (angle + (math.sin(angle) * total if freedom > 1 else 0.0))


def _interval(mean: float, spread: float, seeds: int) -> Interval:
    half_width = student_t(seeds - 1) * spread / math.sqrt(seeds)
    return mean - half_width, mean + half_width
