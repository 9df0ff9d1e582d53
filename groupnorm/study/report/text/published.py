"""What was published beside what was measured, as sentences about directions."""

from __future__ import annotations

from decimal import Decimal

from groupnorm.study.report.text.findings import find_row, first_of
from groupnorm.study.report.text.verdicts import gap, points
from groupnorm.study.results.compare import compares_in_size, find, first_table, match
from groupnorm.study.results.differences import row_difference
from groupnorm.study.results.format import rounded
from groupnorm.study.results.labels import BATCH_NORM, short_names
from groupnorm.study.results.published import SPREAD, Published, batch_of, has_batches, has_norms
from groupnorm.study.results.rows import Row, Study, batch_sizes, norm_names, subject

BASELINE = str(BATCH_NORM)  # published tables are read as differences to it


def published_by_batch(study: Study, rows: list[Row]) -> str:
    """The table's differences to batch norm at the ends of what both have, and ours."""
    table = first_table(study, has_batches)
    common = [b for b in batch_sizes(rows) if table and b in table.data["batch_per_worker"]]
    if not (table and common):
        return ""
    norms = [norm for norm in table.data if norm != "batch_per_worker" and SPREAD not in norm]
    parts = [
        part
        for batch in dict.fromkeys((common[0], common[-1]))
        for part in _directions(study, table, norms, rows, batch, batch)
    ]
    return f"{introduced(table, study)} {' '.join(parts)} {table.note}".rstrip() if parts else ""


def published_by_norm(study: Study, rows: list[Row]) -> str:
    """The table's differences to batch norm, and ours at the largest batch size."""
    batch = batch_sizes(rows)[0]
    table = first_table(study, lambda t: has_norms(t, batch))
    if table is None:
        return ""
    norms = table.data.get("norm") or [n for n in list(table.data)[1:] if SPREAD not in n]
    parts = _directions(study, table, norms, rows, batch, batch_of(table, batch))
    return f"{introduced(table, study)} {' '.join(parts)}" if parts else ""


def introduced(table: Published, study: Study) -> str:
    """Whose table it is, and what may be compared with it."""
    owner = table.owner[0].upper() + table.owner[1:]
    text = f"{owner} measured {table.model} on {table.dataset}"
    if compares_in_size(table, study):
        return f"{text}, as this study does."
    return (
        f"{text}; this is {subject(study)}, so only the direction of a difference can be compared."
    )


def _directions(
    study: Study,
    table: Published,
    norms: list[str],
    rows: list[Row],
    batch: int,
    their_batch: int | None,
) -> list[str]:
    """What the table has of each norm against batch norm at `their_batch`, and we at `batch`."""
    bn = first_of(rows, BATCH_NORM)
    base = find(table, norm=BASELINE, batch_per_worker=their_batch)
    names = short_names(norms)
    parts = []
    for norm in norms:
        mine = norm_names(rows)
        ours = norm if norm in mine else next((n for n in mine if match(norm, [n])), "")
        found = find(table, norm=norm, batch_per_worker=their_batch)
        if norm != BASELINE and bn and ours and base and found:
            difference = rounded(found.result, 2) - rounded(base.result, 2)
            at = f"At {batch} images"
            if their_batch not in (None, batch):
                at = f"At {their_batch} images (here {batch})"
            text = f"{at} {table.owner} has {names[norm]} {points(study.metric, abs(difference))} "
            text += "below BN" if difference < 0 else "above BN"
            paper = difference if their_batch in (None, batch) else None
            parts.append(text + _direction(study, rows, ours, bn, batch, paper))
    return parts


def _direction(
    study: Study, rows: list[Row], norm: str, bn: str, batch: int, paper: Decimal | None
) -> str:
    """Does `norm` against `bn` point the way a published difference (norm minus BN) does?

    Args:
        paper: the difference; None for one at another batch size, which may point another way.
    """
    ours, theirs = find_row(rows, norm, batch), find_row(rows, bn, batch)
    if not (ours and theirs and ours.result and theirs.result):
        return "; here one of the two has no result."
    found = row_difference(ours, theirs)
    if found is None:
        return "; here the two share no seed to compare them by."
    here = "below" if found.mean < 0 else "above"
    text = f"; here it is {gap(study.metric, found)} {here}"
    if paper is None:
        apart = ", which cannot be told from no difference" if found.told_apart is False else ""
        return f"{text}{apart}, at another batch size."
    same = (found.mean < 0) == (paper < 0)
    if found.told_apart:
        return f"{text}, {'which agrees' if same else 'which disagrees'} in direction."
    if found.told_apart is False:
        return f"{text}, which cannot be told from no difference."
    way = "the same way" if same else "the other way"
    seeds = "one seed" if found.pairs == 1 else f"{found.pairs} seeds without an interval"
    return f"{text}: {way}, in {seeds}."
