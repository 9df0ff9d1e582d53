"""The words of a study by norm, clips per worker and length of the clips."""

from __future__ import annotations

from collections.abc import Sequence

from groupnorm.spec import NormSpec
from groupnorm.study.report.text.findings import alone, best_first, compared, picked
from groupnorm.study.report.text.verdicts import change, gap, uncertainty, verdict
from groupnorm.study.results.clips import (
    Clip,
    Line,
    alike,
    ceiling_note,
    ceilings,
    clip_of,
    clips_of,
    families,
    lines_of,
)
from groupnorm.study.results.differences import gains, row_difference
from groupnorm.study.results.estimates import Difference, paired_difference
from groupnorm.study.results.format import decimal_text
from groupnorm.study.results.labels import BATCH_NORM, GROUP_NORM, is_one, short_names
from groupnorm.study.results.rows import Row, Study, norm_names
from groupnorm.study.results.wording import gap_unit, noun
from groupnorm.training.metric import Metric

_UNTOLD = ": no difference that can be told from chance"


def clips_headline(study: Study, rows: list[Row]) -> str:
    """The finding with its uncertainty: group norm against batch norm, where both are there.

    Compared are the longest clips with the fewest of them per worker. Without one of the two norms
    the best one stands against the next; of a single norm the longest clips against the shortest.
    """
    names, metric, family = _names(study, rows), study.metric, families(rows)[0]
    here = {row.labels["norm"]: row for row in alike(family)[-1]}
    some = next(iter(here.values()))
    where = _at(some, f" of {clip_of(some).frames} frames")
    gn, bn = (_first(spec, here) for spec in (GROUP_NORM, BATCH_NORM))
    if gn and bn:
        return compared(study, rows, (names[gn], here[gn]), (names[bn], here[bn]), where)
    ranked = best_first({norm: row for norm, row in here.items() if row.result}, metric)
    if len(ranked) > 1:
        best, second = ((names[norm], here[norm]) for norm in ranked[:2])
        text = compared(study, rows, best, second, where)
        return text + (picked(metric, best[0], len(ranked)) if len(ranked) > 2 else "")
    of_it = next(line.rows for line in lines_of(family) if some in line.rows.values())
    if len(of_it) > 1:
        shortest, *_, longest = (
            (f"{names[row.labels['norm']]} in clips of {clip}", row) for clip, row in of_it.items()
        )
        return compared(study, rows, longest, shortest, _at(some))
    return alone(metric, [(names[norm], here[norm]) for norm in ranked], where)


def clips_text(study: Study, rows: list[Row]) -> list[str]:
    """What longer clips give, group norm against batch norm, what batch norm loses; ceilings."""
    names, found = _names(study, rows), []
    for family in families(rows):
        found.append(_longer(study, family, names))
        found += [_by_batch(study, family, names, clip) for clip in reversed(clips_of(family))]
    return [*found, _ceilings(study, rows)]


def _longer(study: Study, family: list[Row], names: dict[str, str]) -> str:
    """The change from the shortest to the longest clips, and whether norms differ in it."""
    shortest, longest = clips_of(family)[0], clips_of(family)[-1]
    lines = [line for line in lines_of(family) if {shortest, longest} <= line.rows.keys()]
    if shortest == longest or not lines:
        return ""
    metric = study.metric
    changes = [
        f"of {_line(names, line)} "
        f"{change(metric, row_difference(line.rows[longest], line.rows[shortest]))}"
        for line in lines
    ]
    ends = f"From clips of {shortest} to clips of {longest}"
    text = f"{ends} the {noun(metric)} {'; that '.join(changes)}."
    group_norm = next((line for line in lines if is_one(GROUP_NORM, line.norm)), None)
    if group_norm is None:
        return text
    told = []
    for line in lines:
        if is_one(BATCH_NORM, line.norm):
            both = [gains(one.rows[longest], one.rows[shortest]) for one in (line, group_norm)]
            if found := paired_difference(*both):
                told.append(f"of {_line(names, line)} {_more(metric, found)}")
    if told:
        text += f" Against that of {names[group_norm.norm]} the change {'; '.join(told)}."
    return text


def _more(metric: Metric, found: Difference) -> str:
    """How one change compares with another, as "is 1.2 points higher (...)"."""
    if not found.mean:
        return f"is the same ({uncertainty(found)})"
    word = "higher" if found.mean > 0 else "lower"
    note = _UNTOLD if found.told_apart is False else ""
    size = found if found.mean > 0 else found.negated
    return f"is {gap(metric, found)} {word} ({uncertainty(size)}{note})"


def _by_batch(study: Study, family: list[Row], names: dict[str, str], clip: Clip) -> str:
    """Group norm against batch norm at every number of clips per worker, and what that loses."""
    metric, told, of_bn = study.metric, [], []
    for group in alike([row for row in family if clip_of(row) == clip]):
        here = {row.labels["norm"]: row for row in group if row.result}
        gn, bn = (_first(spec, here) for spec in (GROUP_NORM, BATCH_NORM))
        if bn:
            of_bn.append(here[bn])
        if gn and bn:
            found = row_difference(here[gn], here[bn])
            told.append(verdict(metric, names[gn], names[bn], found, _at(here[bn])))
    text = f"In clips of {clip}, {'; '.join(told)}." if told else ""
    if len(of_bn) > 1:
        most, *_, fewest = of_bn
        text += (
            f" From {most.labels['batch_per_worker']} to {fewest.labels['batch_per_worker']} clips "
            f"per worker the {noun(metric)} of {names[most.labels['norm']]} "
            f"{change(metric, row_difference(fewest, most))}."
        )
    return text.strip()


def _ceilings(study: Study, rows: Sequence[Row]) -> str:
    """The ceilings, and what they take part in of the gains."""
    note, found, longest = ceiling_note(study, rows), ceilings(study, rows), clips_of(rows)[-1]
    if not note or longest in found:
        return note
    most = decimal_text(100.0 - min(found.values()))
    return (
        f"{note} Clips of {longest} have no such ceiling, so that up to {most} "
        f"{gap_unit(study.metric)} of what they gain come from the ceiling and tell nothing of "
        "norms."
    )


def _names(study: Study, rows: Sequence[Row]) -> dict[str, str]:
    """What the sentences call the norms; a short name might be the own name of another norm."""
    norms = norm_names(rows)
    return {norm: study.called(norm) for norm in norms} if study.names else short_names(norms)


def _line(names: dict[str, str], line: Line) -> str:
    name = names[line.norm]
    return name if line.batch is None else f"{name} at {line.batch} clips per worker"


def _at(row: Row, of: str = "") -> str:
    batch = row.labels["batch_per_worker"]
    return f" at {batch} clip{'' if batch == 1 else 's'}{of} per worker"


def _first(spec: NormSpec, norms: dict[str, Row]) -> str:
    """The first norm of the kind of `spec`, with WS or without; empty when there is none."""
    return next((norm for norm in norms if is_one(spec, norm)), "")
