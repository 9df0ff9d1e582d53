"""Tuned studies: the best of the values tried, for every configuration alike."""

from __future__ import annotations

import json
from collections.abc import Sequence

from groupnorm.study.results.labels import batches_text, label_of, row_text
from groupnorm.study.results.rows import Row, by_runs
from groupnorm.study.store import StoreError

CHOSEN = "chosen"


def chosen_rows(rows: Sequence[Row], tuned_over: str) -> list[Row]:
    """Of every configuration the row with the lowest mean error over the values tried.

    A value of which some seed did not finish is chosen only when every value lacks seeds: the mean
    over the seeds that are left flatters it. Of equal errors the first counts, and the first value
    stands for a configuration of which nothing finished.

    Args:
        rows: every row of the study, `tuned_over` among their labels.

    Raises:
        StoreError: a cell without that label.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if tuned_over not in row.labels:
            raise StoreError(
                f"study.json was tuned over {tuned_over!r}, but a cell has no such label; it has "
                f"{', '.join(row.labels)}"
            )
        rest = {key: value for key, value in row.labels.items() if key != tuned_over}
        groups.setdefault(json.dumps(rest, sort_keys=True), []).append(row)
    return [min(tried, key=_rank) for tried in groups.values()]


def how_tuned(tried: Sequence[Row], tuned_over: str) -> str:
    """How the values were chosen, and on what, as a paragraph."""
    counts: dict[str, set[str]] = {}
    for row in tried:
        value = json.dumps(row.labels[tuned_over])
        counts.setdefault(row.labels["norm"], set()).add(value)
    numbers = sorted({len(values) for values in counts.values()})
    many = f"the same number of values for every norm, {numbers[0]}" if numbers else "no value"
    if len(numbers) > 1:
        each = ", ".join(f"{norm} {len(values)}" for norm, values in counts.items())
        many = f"not the same number of values for every norm ({each}), which favours those of more"
    return (
        f"Each configuration is shown with the {tuned_over} that gave it the lowest mean error. "
        f"The choice was made on the evaluation images themselves, among {many}; all are under "
        "Tuning. The errors shown are therefore somewhat too low, those of close values most."
    )


def chosen_note(chosen: Sequence[Row], tuned_over: str) -> str:
    """The values chosen, e.g. "base_lr chosen: bn, 32 images per worker: 0.1; ..."."""
    parts = [f"{label_of(same)}: {same[0].labels[tuned_over]}" for same in by_runs(chosen)]
    return f"Values of {tuned_over} chosen: {'; '.join(parts)}."


def tuning_table(
    rows: Sequence[Row], chosen: Sequence[Row], tuned_over: str
) -> tuple[list[str], list[list[str]]]:
    """Header and one line for every value tried: norm, images per worker, value, error, choice."""
    lines = [
        [
            str(same[0].labels["norm"]),
            batches_text(same),
            str(same[0].labels[tuned_over]),
            row_text(same[0], same[0].error),
            CHOSEN if same[0] in chosen else "",
        ]
        for same in by_runs(rows)
    ]
    return ["norm", "images per worker", tuned_over, "error: mean ± spread", CHOSEN], lines


def _rank(row: Row) -> tuple[bool, bool, float]:
    error = row.error
    return error is None, row.status != "finished", error.mean if error else 0.0
