"""The tables of a study of fine-tuning: results by step, and what sets an arm apart from the first.

What the same runs give at several numbers of images per worker has one line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from groupnorm.study.report.markup import MarkedTable
from groupnorm.study.results.by_step import at_step, difference_at, running_note, shown_steps
from groupnorm.study.results.differences import groups_of, short_verdict
from groupnorm.study.results.format import plain_text
from groupnorm.study.results.labels import (
    NOTHING,
    interval_text,
    label_cells,
    label_columns,
    row_text,
)
from groupnorm.study.results.rows import Row, Study, by_runs, seeds_text, subject
from groupnorm.study.results.rules import title_images
from groupnorm.study.results.wording import capital, gap_unit_in_full, in_unit

TITLES = {"steps": "By step", "step-differences": "Differences by step"}
"""Of the tables on the page, by their names."""


def step_tables(study: Study, rows: Sequence[Row]) -> list[MarkedTable]:
    """Both tables; none before a run has finished."""
    steps = shown_steps(study)
    if not steps:
        return []
    metric = study.metric
    header = [*label_columns(study), *(f"step {step:,}" for step in steps)]
    where = f"{title_images(study)} after so many steps: {subject(study)}, {seeds_text(rows)}"
    note = running_note(study, rows)
    running = f". {note.rstrip('.')}" if note else ""
    body = [
        [
            *label_cells(study, same),
            *(row_text(row, row.result) for row in (at_step(study, same[0], s) for s in steps)),
        ]
        for same in by_runs(rows)
    ]
    results = MarkedTable(
        "steps", f"{capital(metric.title)}{in_unit(metric)}{where}{running}", header, body
    )
    differences = MarkedTable(
        "step-differences",
        f"Differences of {metric.title} in {gap_unit_in_full(metric)}{where}. Each arm minus the "
        "first one at the same number of images per worker, with the 95 % interval over seeds by "
        f"Student's t{running}",
        header,
        [
            [*label_cells(study, same), *(_difference(study, same[0], first, s) for s in steps)]
            for same, first in against_first(study, rows)
        ],
    )
    return [results, differences]


def against_first(study: Study, rows: Sequence[Row]) -> Iterator[tuple[list[Row], Row]]:
    """The rows that the same runs fill, and the first arm that they stand against.

    An arm that is trained once stands against the first arm, which is too, once.
    """
    firsts = {id(row): here[0] for here in groups_of(study, rows) for row in here}
    for same in by_runs(rows):
        first = firsts[id(same[0])]
        if same[0].runs != first.runs:
            yield same, first


def _difference(study: Study, row: Row, first: Row, step: int) -> str:
    """As "-1.2 (-2.0 to -0.4)", or why there is none."""
    found = difference_at(study, row, first, step)
    if found is None:
        return NOTHING
    text = plain_text(found.shown)
    if found.interval is None:
        return f"{text} ({short_verdict(study.metric, found)})"
    return f"{text} ({interval_text(found.interval)})"
