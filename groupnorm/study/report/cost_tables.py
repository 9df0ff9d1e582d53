"""The tables of what configurations cost, and of where the time of their runs went."""

from __future__ import annotations

from statistics import fmean

from groupnorm.study.results.costs import COSTS, SPENT, time_spent
from groupnorm.study.results.labels import label_cells, label_columns, number_text, row_text
from groupnorm.study.results.rows import Row, Study, by_runs, run_status
from groupnorm.study.results.wording import noun


def cost_table(study: Study, rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of costs; no rows when no run has recorded any.

    One row per configuration whose runs have costs, with the result beside it; one alone for what
    was trained once for several batch sizes. What no run has recorded is no column. Older records
    hold the peak of the whole process instead of a step's memory, which is not shown.
    """
    with_memory = any(row.cost and row.step_memory_bytes is not None for row in rows)
    shown = {key: COSTS[key] for key in COSTS if any(key in row.cost for row in rows)}
    titles = [title.replace("image", study.example) for title, _, _ in shown.values()]
    header = [*label_columns(study), noun(study.metric), *titles]
    body = []
    for same in by_runs(rows):
        row = same[0]
        if not row.cost:
            continue
        cells = [
            number_text(None if key not in row.cost else factor * row.cost[key], digits)
            for key, (_, factor, digits) in shown.items()
        ]
        memory = row.step_memory_bytes
        if with_memory:
            cells.append(number_text(None if memory is None else memory / 2**20, 0))
        body.append([*label_cells(study, same), row_text(row, row.result), *cells])
    return header + ["memory of a step, MiB"] * with_memory, body


def time_table(study: Study, rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of where the time of arms, or of clips, went; no rows of other studies.

    Means over the finished runs that say it.
    """
    header = [
        *label_columns(study), f"training, ms/{study.example}", *(f"{part}, %" for part in SPENT)
    ]  # fmt: skip
    arms = [[row] for row in rows] if study.axis != "norm" else []
    body = []
    for same in by_runs(rows) if study.of_clips else arms:
        row = same[0]
        records = [study.records[name] for name in row.runs]
        done = [r for r in records if run_status(r, study.metric_of(r))[0] == "finished"]
        spent = [found for record in done if (found := time_spent(record))]
        if spent:
            shares = [100 * fmean(found.shares[part] for found in spent) for part in SPENT]
            per_image = fmean(found.milliseconds for found in spent)
            cells = [number_text(per_image, 2), *(number_text(share, 1) for share in shares)]
            body.append([*label_cells(study, same), *cells])
    return header, body
