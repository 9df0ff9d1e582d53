"""Results of a study of fine-tuning after so many steps: its curves are the answer, not their end
alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from groupnorm.study.results.differences import row_difference
from groupnorm.study.results.estimates import Difference
from groupnorm.study.results.rows import Row, Study, run_status

STEPS = (100, 300, 1000)
"""After which results are shown; of other evaluations the nearest ones."""


def shown_steps(study: Study) -> list[int]:
    """The steps after which all runs with a result were evaluated, those nearest to `STEPS`."""
    found: set[int] | None = None
    for record in study.records.values():
        if run_status(record, study.metric)[0] == "finished":
            here = _by_step(study, record.metrics).keys()
            found = set(here) if found is None else found & here
    if not found:
        return []
    return sorted({min(found, key=lambda step: (abs(step - wanted), step)) for wanted in STEPS})


def results_at(study: Study, row: Row, step: int) -> dict[int, float]:
    """The metric after a step by the seeds that finished, with running statistics."""
    seeds = {cell.run: cell.seed for cell in study.cells}
    return {
        seeds[name]: values[step]
        for name in row.runs
        if seeds[name] in row.results
        and step in (values := _by_step(study, study.records[name].metrics))
    }


def at_step(study: Study, row: Row, step: int) -> Row:
    """The row with the results after a step, and nothing with recomputed statistics."""
    return replace(row, results=results_at(study, row, step), precise_results={})


def running_note(study: Study, rows: Sequence[Row]) -> str:
    """Which arms are evaluated with running statistics, as a sentence; empty where none is."""
    arms = dict.fromkeys(study.label(row.labels) for row in rows if row.precise_results)
    return f"With running statistics: {', '.join(arms)}." if arms else ""


def difference_at(study: Study, row: Row, reference: Row, step: int) -> Difference | None:
    """The results of a row after a step minus those of the reference; None without a pair."""
    return row_difference(at_step(study, row, step), at_step(study, reference, step))


def _by_step(study: Study, metrics: list[dict[str, object]]) -> dict[int, float]:
    name = study.metric.name
    found = {}
    for row in metrics:
        step, value = row.get("step"), row.get(name)
        if isinstance(step, int) and isinstance(value, int | float):
            found[step] = float(value)
    return found
