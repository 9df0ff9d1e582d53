"""Differences in words: what their interval tells, and what a few seeds cannot tell."""

from __future__ import annotations

from decimal import Decimal

from groupnorm.study.results.estimates import Difference, Estimate, seeds_needed
from groupnorm.study.results.format import decimal_text, plain_text, rounded
from groupnorm.study.results.labels import interval_text


def verdict(name_a: str, name_b: str, found: Difference | None, where: str = "") -> str:
    """One comparison in words, without a full stop.

    Args:
        found: the errors of `name_a` minus those of `name_b`; None: no seed of both to compare.
        where: follows the names, as " at 2 images per worker".
    """
    if found is None:
        return f"{name_a} and {name_b} share no seed to compare them by{where}"
    ahead, behind, less = (
        (name_a, name_b, found.negated) if found.mean < 0 else (name_b, name_a, found)
    )
    if found.told_apart is False and found.mean == 0:
        return (
            f"{name_a} and {name_b} cannot be told apart{where}: their mean errors are the same "
            f"({uncertainty(found)})"
        )
    if found.told_apart is False:
        return (
            f"{name_a} and {name_b} cannot be told apart{where}: {ahead} has "
            f"{gap(found)} less error ({uncertainty(less)})"
        )
    size = f"{ahead} has {gap(found)} less error than {behind}{where}"
    if found.mean == 0:
        size = f"{name_a} and {name_b} have the same error{where}"
    if found.told_apart:
        return f"{size} ({uncertainty(less)})"
    if found.pairs == 1:
        return f"{size} in one seed"
    return f"{size} in each of {found.pairs} seeds, which do not say how much it varies"


def less_than(name: str, found: Difference | None) -> str:
    """What follows the lowest error, as ", 9.9 points less than bn (95 % interval 9.1 to 10.7)".

    Args:
        name: of the next higher one.
        found: the lowest errors minus its errors.
    """
    if found is None:
        return f"; it shares no seed with {name} to compare them by"
    text = f", {gap(found)} less than {name}"
    if found.mean == 0:
        text = f", the same as {name}"
    if found.told_apart is None:
        return f"{text} in {'one seed' if found.pairs == 1 else f'each of {found.pairs} seeds'}"
    apart = "" if found.told_apart else ", from which it cannot be told apart"
    return f"{text}{apart} ({uncertainty(found.negated)})"


def uncertainty(found: Difference) -> str:
    """The interval and what it rests on, e.g. "95 % interval 4.9 to 8.3, 3 seeds"."""
    interval = f"95 % interval {interval_text(found.interval)}, " if found.interval else ""
    seeds = f"{interval}{found.pairs} {'seed' if found.pairs == 1 else 'seeds'}"
    if found.left_out:
        seeds += f"; {found.left_out} left out that only one of the two has"
    return seeds


def seeds_for_one_point(found: Difference | None) -> str:
    """How many seeds would tell a difference of one point, as a sentence; empty if unknown."""
    if found is None or not found.spread:
        return ""
    needed, share = seeds_needed(found.spread), "four studies of five"
    estimated = f"by an estimate from the spread of these {found.pairs} pairs"
    if needed <= found.pairs:
        return f"{found.pairs} seeds tell a difference of one point in {share}, {estimated}."
    return (
        f"To tell a difference of one point in {share} takes about {needed:,} seeds, {estimated}."
    )


def change(found: Difference | None) -> str:
    """How an error changes, e.g. "rises by 9.9 points (95 % interval 9.1 to 10.7, 3 seeds)"."""
    if found is None:
        return "cannot be given, because the two share no seed,"
    word, size = ("rises", found) if found.mean > 0 else ("falls", found.negated)
    note = ": no change that can be told from chance" if found.told_apart is False else ""
    return f"{word} by {gap(found)} ({uncertainty(size)}{note})"


def percent(value: Estimate | None) -> str:
    """A mean with its spread over seeds, e.g. "20.1 % ± 0.1"; "no result" for None."""
    if value is None:
        return "no result"
    spread = f" ± {one_decimal(value.spread)}" if value.spread is not None else ""
    return f"{decimal_text(value.mean)} %{spread}"


def gap(found: Difference) -> str:
    """The difference as it is printed, without its sign."""
    if found.mean and not found.shown:
        return "less than 0.1 points"
    return f"{plain_text(abs(found.shown))} points"


def points(value: float | Decimal) -> str:
    """A number of percentage points."""
    return f"{one_decimal(value)} points"


def one_decimal(value: float | Decimal) -> str:
    """One decimal, two where one would say 0.0."""
    return decimal_text(value, 1 if rounded(value, 1) or not value else 2)
