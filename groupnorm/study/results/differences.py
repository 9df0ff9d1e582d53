"""Each norm or arm against a reference, over pairs: the table of differences, of any metric.

What is paired is a seed, and, where runs record values on parts of the test images, such a part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from groupnorm.study.results.clips import alike, families, longer_clips
from groupnorm.study.results.estimates import (
    Difference,
    interval_digits,
    paired_difference,
    seeds_needed,
)
from groupnorm.study.results.format import decimal_text, plain_text
from groupnorm.study.results.labels import (
    BATCH_NORM,
    NOTHING,
    RECOMPUTED,
    clip_text,
    group_labels,
    heading,
    interval_text,
    is_one,
    label_cells,
    label_columns,
    of_kind,
)
from groupnorm.study.results.parts import mean_by_part
from groupnorm.study.results.rows import Row, Study, batch_sizes, norm_names
from groupnorm.study.results.rules import evaluation_word
from groupnorm.study.results.wording import (
    best_word,
    is_better,
    lower_is_better,
    noun,
    rank,
    short_comparison,
    with_article,
)
from groupnorm.training.metric import PARTS, Metric

ABOUT_PARTS = (
    "The {images} images make {parts} parts, the same for every run. The two intervals answer two "
    "questions. That over seeds is about other seeds on the same {images} images. That over parts "
    "is about other images for the same trained networks, and says nothing of another training. A "
    "value on a part of the images is not that on all of them, so that the two differences need "
    "not be equal."
)


@dataclass(frozen=True)
class DifferenceLine:
    """One line of the table: a configuration minus the reference of its group.

    Attributes:
        name: its norm, or its arm.
        recomputed: whether its results are those with recomputed statistics.
        reference: the norm or arm of the reference.
        rows: the rows that the same runs fill, one for each batch size.
        difference: None where no seed of both has finished, or on the same images.
        verdict: in a few words, e.g. "less error" or "cannot be told apart".
        seeds_needed: how many seeds would tell a difference of one point with 80 % power, estimated
            from the spread of these pairs; None without such a spread.
        metric: what is compared.
        on_parts: the difference over the parts of the test images; None where there are none.
        clip: the length of the reference's clips, where they are what differs; else empty.
    """

    name: str
    recomputed: bool
    reference: str
    rows: list[Row]
    difference: Difference | None
    verdict: str
    seeds_needed: int | None
    metric: Metric
    on_parts: Difference | None = None
    clip: str = ""

    @property
    def against(self) -> str:
        """What it stands against: another norm or arm, or the same norm with other clips."""
        return self.clip or self.reference


def row_difference(
    a: Row,
    b: Row,
    *,
    recomputed_a: bool = False,
    recomputed_b: bool = False,
    further: Metric | None = None,
) -> Difference | None:
    """The result of `a` minus that of `b` over the seeds that both have.

    Args:
        recomputed_a: take the results of `a` with recomputed statistics.
        recomputed_b: take those of `b`.
        further: take the results of this further metric of the study.

    Returns:
        None when no seed of both has finished, or when they were evaluated on different images.
    """
    if a.evaluated_on != b.evaluated_on:
        return None
    if further is not None:
        return paired_difference(a.further[further.name], b.further[further.name])
    return paired_difference(
        a.precise_results if recomputed_a else a.results,
        b.precise_results if recomputed_b else b.results,
    )


def gains(a: Row | None, b: Row | None) -> dict[int, float]:
    """The results of `a` minus those of `b`, by the seeds that both have on the same images."""
    if a is None or b is None or a.evaluated_on != b.evaluated_on:
        return {}
    return {seed: one - b.results[seed] for seed, one in a.results.items() if seed in b.results}


def part_difference(a: Row, b: Row, metric: Metric) -> Difference | None:
    """The result of `a` minus that of `b` over the parts of the test images.

    On each part it is the mean over the seeds that both have. What the pairs tell is how far the
    difference of these trained networks depends on the images; how far it depends on their training
    is not in it.

    Returns:
        None where no seed of both has values on parts, or when they were evaluated on different
        images.
    """
    if a.evaluated_on != b.evaluated_on:
        return None
    ours, theirs = a.parts.get(metric.name, {}), b.parts.get(metric.name, {})
    seeds = [seed for seed in ours if seed in theirs]
    return paired_difference(mean_by_part(ours, seeds), mean_by_part(theirs, seeds))


def has_parts(study: Study) -> bool:
    """Whether any run of a study records values on parts of the test images."""
    return any(PARTS in row for record in study.records.values() for row in record.metrics)


def differences_of(
    study: Study, rows: Sequence[Row], further: Metric | None = None
) -> list[DifferenceLine]:
    """Every row against the reference of its group, the largest batch size first.

    Norms are grouped by batch size, and the reference is batch norm; without any, what has the best
    mean. Arms are grouped by the labels that they have besides, and the reference is the first one.
    Of clips also the length counts, and batch norm with WS is the reference of norms with WS; then
    comes each norm with longer clips against itself with the shortest ones. What the same runs give
    at several batch sizes is there once.

    A search has no differences: its runs are of different lengths, so that their results do not
    compare. Nor do those of the networks that a study of conversions converts.

    Args:
        further: of the study's further metrics that which is compared; None: the study's metric. A
            group whose results are without it, as box detectors are without mask AP, has no lines.
    """
    if study.search is not None or study.of_conversions:
        return []
    found: dict[tuple[object, ...], DifferenceLine] = {}
    for here in groups_of(study, rows):
        done = [row for row in here if row.results]
        if further and done and not any(row.further[further.name] for row in done):
            continue
        reference = _reference(study, here)
        for row in here:
            for recomputed in (False, True):
                without = further is not None or not row.precise
                if (row is reference and not recomputed) or (recomputed and without):
                    continue
                key = (row.labels[study.axis], row.runs, recomputed, reference.runs)
                if key in found:
                    found[key].rows.append(row)
                else:
                    found[key] = _line(study, row, recomputed, reference, further)
    if study.of_clips:
        found |= _gains(study, rows, further)
    return list(found.values())


def _gains(
    study: Study, rows: Sequence[Row], further: Metric | None
) -> dict[tuple[object, ...], DifferenceLine]:
    """Longer clips against the shortest ones of the same norm and number of clips per worker."""
    found: dict[tuple[object, ...], DifferenceLine] = {}
    for shortest, row in longer_clips(rows):
        for recomputed in (False, True) if row.precise and further is None else (False,):
            key = ("longer", row.labels["norm"], row.runs, recomputed)
            if key in found:
                found[key].rows.append(row)
                continue
            line = _line(study, row, recomputed, shortest, further, recomputed_b=recomputed)
            found[key] = replace(line, clip=clip_text(shortest.labels))
    return found


def groups_of(study: Study, rows: Sequence[Row]) -> list[list[Row]]:
    """The rows that are compared with each other, in groups.

    Norms of one batch size, the largest first; of clips also of one length, with WS or without;
    arms that agree in all other labels, in the order of the rows.
    """
    names = group_labels(study)
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.labels.get(name) for name in names), []).append(row)
    if study.of_clips:
        return [here for family in families(rows) for here in alike(family)]
    if study.axis == "norm":
        return [groups[(batch,)] for batch in batch_sizes(rows)]
    return list(groups.values())


def difference_header(study: Study) -> list[str]:
    """What stands above `difference_lines`."""
    name, *groups = label_columns(study)
    if has_parts(study):
        return [
            name, "against", *groups, "difference", "95 % interval over seeds", "pairs of seeds",
            "verdict over seeds", "difference over parts", "95 % interval over parts",
            "verdict over parts",
        ]  # fmt: skip
    return [
        name, "against", *groups, "difference", "95 % interval", "pairs of seeds", "verdict",
    ]  # fmt: skip


def difference_lines(study: Study, found: Sequence[DifferenceLine]) -> list[list[str]]:
    """The lines of the table of differences, below `difference_header`."""
    with_parts = has_parts(study)
    return [
        [
            study.called(one.name) + (f" {RECOMPUTED}" if one.recomputed else ""),
            one.clip or study.called(one.reference),
            *label_cells(study, one.rows)[1:],
            NOTHING if one.difference is None else plain_text(one.difference.shown),
            _interval_cell(one.difference),
            _pairs_cell(one.difference),
            one.verdict,
            *(_part_cells(one) if with_parts else ()),
        ]
        for one in found
    ]


def how_compared(study: Study, found: Sequence[DifferenceLine]) -> str:
    """What the reference is, and what the sign of a difference means, in sentences."""
    metric = study.metric
    if lower_is_better(metric):
        text = f"Below 0 the {study.axis} has less {noun(metric)} than what it stands against."
    else:
        higher = with_article(f"higher {noun(metric)}")
        text = f"Above 0 the {study.axis} has {higher} than what it stands against."
    if parts := max((one.on_parts.pairs for one in found if one.on_parts), default=0):
        text += f" {ABOUT_PARTS.format(parts=parts, images=evaluation_word(study))}"
    if study.axis != "norm":
        same = " and ".join(map(heading, group_labels(study)))
        return f"{text} Each arm stands against the first one{same and f' with the same {same}'}."
    if study.of_clips:
        text += (
            " What stands against a norm has the same clips; longer clips stand against the "
            "shortest ones of the same norm and the same number of clips per worker."
        )
    if not all(is_one(BATCH_NORM, one.reference) for one in found if not one.clip):
        text += (
            f" Without batch norm the reference is the {best_word(metric)} mean {noun(metric)}, "
            "which chance favours: an interval beside 0 tells less than it would of a reference "
            "chosen beforehand."
        )
    return text


def short_verdict(metric: Metric, found: Difference, pairs: str = "seed") -> str:
    """What the pairs tell of a difference, in a few words.

    Args:
        pairs: what one of them is.
    """
    if found.told_apart is not None:
        if not found.told_apart:
            return "cannot be told apart"
        return short_comparison(metric, is_better(metric, found.mean))
    if found.pairs == 1:
        return f"one {pairs}, nothing can be told"
    what = "difference" if found.shown else noun(metric)
    return f"the same {what} in {found.pairs} {pairs}s, no interval"


def part_gap(found: Difference) -> str:
    """The mean difference of parts as it is printed, with the decimals of its interval."""
    return decimal_text(found.mean, interval_digits(found.interval) if found.interval else 1)


def _reference(study: Study, here: Sequence[Row]) -> Row:
    if study.axis != "norm":
        return here[0]
    named = of_kind(BATCH_NORM, norm_names(here))
    if study.of_clips:
        named = [norm for norm in norm_names(here) if is_one(BATCH_NORM, norm)]
    if named:
        return next(row for row in here if row.labels["norm"] == named[0])
    return min(here, key=lambda row: (row.mean is None, rank(study.metric, row.mean or 0.0)))


def _line(
    study: Study,
    row: Row,
    recomputed: bool,
    reference: Row,
    further: Metric | None,
    recomputed_b: bool = False,
) -> DifferenceLine:
    metric = further or study.metric
    difference = row_difference(
        row, reference, recomputed_a=recomputed, recomputed_b=recomputed_b, further=further
    )
    if difference is None:
        verdict = _why_not(study, row, reference, further)
    else:
        verdict = short_verdict(metric, difference)
    needed = seeds_needed(difference.spread) if difference and difference.spread else None
    names = row.labels[study.axis], reference.labels[study.axis]
    on_parts = None if recomputed else part_difference(row, reference, metric)
    return DifferenceLine(
        names[0], recomputed, names[1], [row], difference, verdict, needed, metric, on_parts
    )


def _why_not(study: Study, row: Row, reference: Row, further: Metric | None) -> str:
    without = [
        f"{study.label(one.labels)} {one.status}" for one in (row, reference) if not one.results
    ]
    if without:
        return f"no result: {', '.join(without)}"
    if further:
        bare = [study.label(one.labels) for one in (row, reference)
                if not one.further[further.name]]  # fmt: skip
        if bare:
            return f"no {noun(further)} is measured: {', '.join(bare)}"
    if row.evaluated_on != reference.evaluated_on:
        return "evaluated on different images"
    return "no seed that both have"


def _interval_cell(found: Difference | None) -> str:
    return NOTHING if found is None or found.interval is None else interval_text(found.interval)


def _part_cells(one: DifferenceLine) -> list[str]:
    """The difference over parts of the test images, its interval, and what they tell."""
    found = one.on_parts
    if found is None:
        return [NOTHING] * 3
    return [part_gap(found), _interval_cell(found), short_verdict(one.metric, found, "part")]


def _pairs_cell(found: Difference | None) -> str:
    if found is None:
        return "0"
    left_out = f" ({found.left_out} left out)" if found.left_out else ""
    return f"{found.pairs}{left_out}"
