"""Differences in words: what their interval tells, and what a few seeds cannot tell."""

from __future__ import annotations

from decimal import Decimal

from groupnorm.study.results.differences import part_gap
from groupnorm.study.results.estimates import Difference, Estimate, seeds_needed
from groupnorm.study.results.format import decimal_text, plain_text, rounded
from groupnorm.study.results.labels import interval_text
from groupnorm.study.results.wording import (
    ahead,
    beyond_word,
    gap_unit,
    is_better,
    lower_is_better,
    noun,
    plural,
    value_text,
)
from groupnorm.training.metric import Metric


def verdict(
    metric: Metric, name_a: str, name_b: str, found: Difference | None, where: str = ""
) -> str:
    """One comparison in words, without a full stop.

    Args:
        metric: what is compared.
        found: the values of `name_a` minus those of `name_b`; None: no seed of both to compare.
        where: follows the names, as " at 2 images per worker".
    """
    if found is None:
        return f"{name_a} and {name_b} share no seed to compare them by{where}"
    names = (name_a, name_b) if is_better(metric, found.mean) else (name_b, name_a)
    size = found if found.mean > 0 else found.negated
    if found.told_apart is False and found.mean == 0:
        return (
            f"{name_a} and {name_b} cannot be told apart{where}: their mean {plural(metric)} are "
            f"the same ({uncertainty(found)})"
        )
    if found.told_apart is False:
        first = f"{names[0]} {ahead(metric, gap(metric, found))}"
        return f"{name_a} and {name_b} cannot be told apart{where}: {first} ({uncertainty(size)})"
    text = f"{names[0]} {ahead(metric, gap(metric, found), names[1])}{where}"
    if found.mean == 0:
        text = f"{name_a} and {name_b} have the same {noun(metric)}{where}"
    if found.told_apart:
        return f"{text} ({uncertainty(size)})"
    if found.pairs == 1:
        return f"{text} in one seed"
    return f"{text} in each of {found.pairs} seeds, which do not say how much it varies"


def verdict_on_parts(
    metric: Metric, name_a: str, name_b: str, found: Difference | None, images: str = "test"
) -> str:
    """What parts of the test images tell of two arms, as a sentence; empty without an interval.

    Args:
        found: the values of `name_a` minus those of `name_b` on the parts.
        images: "test", or "validation".
    """
    if found is None or found.interval is None:
        return ""
    size = found if found.mean > 0 else found.negated
    names = (name_a, name_b) if is_better(metric, found.mean) else (name_b, name_a)
    interval = f"95 % interval {interval_text(size.interval or (0.0, 0.0))}"
    told = f"{names[0]} {ahead(metric, f'{part_gap(size)} {gap_unit(metric)}', names[1])}"
    if not found.told_apart:
        told = f"{name_a} and {name_b} cannot be told apart"
    return (
        f"Of the networks trained here, on {found.pairs} parts of the {images} images, {told} "
        f"({interval})."
    )


def beyond_next(metric: Metric, name: str, found: Difference | None) -> str:
    """What follows the best value, as ", 9.9 points less than bn (95 % interval 9.1 to 10.7)".

    Args:
        metric: what is compared.
        name: of the next best one.
        found: the best values minus its values.
    """
    if found is None:
        return f"; it shares no seed with {name} to compare them by"
    text = f", {gap(metric, found)} {beyond_word(metric)} than {name}"
    if found.mean == 0:
        text = f", the same as {name}"
    if found.told_apart is None:
        return f"{text} in {'one seed' if found.pairs == 1 else f'each of {found.pairs} seeds'}"
    apart = "" if found.told_apart else ", from which it cannot be told apart"
    return f"{text}{apart} ({uncertainty(found.negated if lower_is_better(metric) else found)})"


def uncertainty(found: Difference) -> str:
    """The interval and what it rests on, e.g. "95 % interval 4.9 to 8.3, 3 seeds"."""
    interval = f"95 % interval {interval_text(found.interval)}, " if found.interval else ""
    seeds = f"{interval}{found.pairs} {'seed' if found.pairs == 1 else 'seeds'}"
    if found.left_out:
        seeds += f"; {found.left_out} left out that only one of the two has"
    return seeds


def seeds_for_one_point(metric: Metric, found: Difference | None) -> str:
    """How many seeds would tell a difference of one point, as a sentence; empty if unknown."""
    if found is None or not found.spread or gap_unit(metric) != "points":
        return ""
    needed, share = seeds_needed(found.spread), "four studies of five"
    estimated = f"by an estimate from the spread of these {found.pairs} pairs"
    if needed <= found.pairs:
        return f"{found.pairs} seeds tell a difference of one point in {share}, {estimated}."
    return (
        f"To tell a difference of one point in {share} takes about {needed:,} seeds, {estimated}."
    )


def change(metric: Metric, found: Difference | None) -> str:
    """How a value changes, e.g. "rises by 9.9 points (95 % interval 9.1 to 10.7, 3 seeds)"."""
    if found is None:
        return "cannot be given, because the two share no seed,"
    if not found.mean:
        return f"stays the same ({uncertainty(found)})"
    word, size = ("rises", found) if found.mean > 0 else ("falls", found.negated)
    note = ": no change that can be told from chance" if found.told_apart is False else ""
    return f"{word} by {gap(metric, found)} ({uncertainty(size)}{note})"


def mean_text(metric: Metric, value: Estimate | None) -> str:
    """A mean with its spread over seeds, e.g. "20.1 % ± 0.1"; "no result" for None."""
    if value is None:
        return "no result"
    spread = f" ± {one_decimal(value.spread)}" if value.spread is not None else ""
    return f"{value_text(metric, value.mean)}{spread}"


def gap(metric: Metric, found: Difference) -> str:
    """The difference as it is printed, without its sign."""
    if found.mean and not found.shown:
        return f"less than 0.1 {gap_unit(metric)}"
    return f"{plain_text(abs(found.shown))} {gap_unit(metric)}"


def points(metric: Metric, value: float | Decimal) -> str:
    """A difference of two values, e.g. "1.2 points"."""
    return f"{one_decimal(value)} {gap_unit(metric)}"


def one_decimal(value: float | Decimal) -> str:
    """One decimal, two where one would say 0.0."""
    return decimal_text(value, 1 if rounded(value, 1) or not value else 2)
