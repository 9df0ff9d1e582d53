"""Each norm against a reference, over paired seeds: the rows of the table of differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from groupnorm.study.results.estimates import Difference, paired_difference, seeds_needed
from groupnorm.study.results.format import plain_text
from groupnorm.study.results.labels import (
    BATCH_NORM,
    NOTHING,
    RECOMPUTED,
    batches_text,
    interval_text,
    of_kind,
)
from groupnorm.study.results.rows import Row, Study, batch_sizes, norm_names

DIFFERENCE_HEADER = [
    "norm", "against", "images per worker", "difference", "95 % interval", "pairs of seeds",
    "verdict",
]  # fmt: skip


@dataclass(frozen=True)
class Contrast:
    """The error of one configuration minus that of the reference at the same batch size.

    Attributes:
        norm: its spec string.
        recomputed: whether its errors are those with recomputed statistics.
        reference: the spec string of the reference.
        rows: the rows that the same runs fill, one for each batch size.
        difference: None where no seed of both has finished, or on the same images.
        verdict: in a few words, e.g. "less error" or "cannot be told apart".
        seeds_needed: how many seeds would tell a difference of one point with 80 % power, estimated
            from the spread of these pairs; None without such a spread.
    """

    norm: str
    recomputed: bool
    reference: str
    rows: list[Row]
    difference: Difference | None
    verdict: str
    seeds_needed: int | None


def row_difference(
    a: Row, b: Row, *, recomputed_a: bool = False, recomputed_b: bool = False
) -> Difference | None:
    """The error of `a` minus that of `b` over the seeds that both have.

    Args:
        recomputed_a: take the errors of `a` with recomputed statistics.
        recomputed_b: take those of `b`.

    Returns:
        None when no seed of both has finished, or when they were evaluated on different images.
    """
    if a.evaluated_on != b.evaluated_on:
        return None
    return paired_difference(
        a.precise_errors if recomputed_a else a.errors,
        b.precise_errors if recomputed_b else b.errors,
    )


def contrasts(rows: Sequence[Row]) -> list[Contrast]:
    """Every row against the reference at its batch size, the largest size first.

    The reference is batch norm; without any, what has the lowest mean error. What the same runs
    give at several batch sizes is there once.
    """
    found: dict[tuple[object, ...], Contrast] = {}
    for batch in batch_sizes(rows):
        here = [row for row in rows if row.labels["batch_per_worker"] == batch]
        reference = _reference(here)
        for row in here:
            for recomputed in (False, True):
                if (row is reference and not recomputed) or (recomputed and not row.precise):
                    continue
                key = (row.labels["norm"], row.runs, recomputed, reference.runs)
                if key in found:
                    found[key].rows.append(row)
                else:
                    found[key] = _contrast(row, recomputed, reference)
    return list(found.values())


def differences_of(study: Study, rows: Sequence[Row]) -> list[Contrast]:
    """The differences that the report of a study shows.

    A search has none: its runs are of different lengths, so that their errors do not compare.
    """
    return [] if study.search is not None else contrasts(rows)


def difference_lines(study: Study, found: Sequence[Contrast]) -> list[list[str]]:
    """The lines of the table of differences, below `DIFFERENCE_HEADER`."""
    return [
        [
            study.called(one.norm) + (f" {RECOMPUTED}" if one.recomputed else ""),
            study.called(one.reference),
            batches_text(one.rows),
            NOTHING if one.difference is None else plain_text(one.difference.shown),
            _interval_cell(one.difference),
            _pairs_cell(one.difference),
            one.verdict,
        ]
        for one in found
    ]


def how_compared(found: Sequence[Contrast]) -> str:
    """What the reference is, and what the sign of a difference means, in sentences."""
    named = all(of_kind(BATCH_NORM, [one.reference]) for one in found)
    text = "Below 0 the norm has less error than what it stands against."
    if not named:
        text += (
            " Without batch norm the reference is the lowest mean error, which chance favours: "
            "an interval beside 0 tells less than it would of a reference chosen beforehand."
        )
    return text


def short_verdict(found: Difference) -> str:
    """What the pairs tell of a difference, in a few words."""
    if found.told_apart is not None:
        if not found.told_apart:
            return "cannot be told apart"
        return "less error" if found.mean < 0 else "more error"
    if found.pairs == 1:
        return "one seed, nothing can be told"
    what = "difference" if found.shown else "error"
    return f"the same {what} in {found.pairs} seeds, no interval"


def _reference(here: Sequence[Row]) -> Row:
    named = of_kind(BATCH_NORM, norm_names(here))
    if named:
        return next(row for row in here if row.labels["norm"] == named[0])
    return min(here, key=lambda row: (row.mean is None, row.mean or 0.0))


def _contrast(row: Row, recomputed: bool, reference: Row) -> Contrast:
    difference = row_difference(row, reference, recomputed_a=recomputed)
    verdict = _why_not(row, reference) if difference is None else short_verdict(difference)
    needed = seeds_needed(difference.spread) if difference and difference.spread else None
    return Contrast(
        row.labels["norm"], recomputed, reference.labels["norm"], [row], difference, verdict, needed
    )


def _why_not(row: Row, reference: Row) -> str:
    without = [f"{one.labels['norm']} {one.status}" for one in (row, reference) if not one.errors]
    if without:
        return f"no result: {', '.join(without)}"
    if row.evaluated_on != reference.evaluated_on:
        return "evaluated on different images"
    return "no seed that both have"


def _interval_cell(found: Difference | None) -> str:
    return NOTHING if found is None or found.interval is None else interval_text(found.interval)


def _pairs_cell(found: Difference | None) -> str:
    if found is None:
        return "0"
    left_out = f" ({found.left_out} left out)" if found.left_out else ""
    return f"{found.pairs}{left_out}"
