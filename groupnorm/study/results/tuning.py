"""Tuned studies: what was tried for every configuration alike, and the value that was chosen."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from groupnorm.study.metrics import check_metrics
from groupnorm.study.results.format import decimal_text
from groupnorm.study.results.labels import label_cells, label_columns, label_of, row_text
from groupnorm.study.results.rows import Row, Study, batch_sizes, by_runs, summarize_study
from groupnorm.study.results.wording import (
    best_word,
    capital,
    gap_unit,
    is_better,
    is_share,
    noun,
    plural,
    rank,
)
from groupnorm.study.store import StoreError, read_cells, read_record
from groupnorm.training.metric import Metric

CHOSEN = "chosen"
_ENDED = ("finished", "diverged")
_ENOUGH = 2
"""Values that one edge is told from the other of."""


@dataclass(frozen=True)
class Tuning:
    """What a study tried, to choose the value of one field for each of its configurations.

    Attributes:
        field: the field, which is also a label of every cell, as "base_lr".
        study: the runs that tried the values.
        rows: a row for every configuration with every value.
        chosen: of every configuration the row with the chosen value. None of a configuration that
            has a run which neither finished nor diverged: it may still win.
        validation_images: number of those that the choice was made on. None in records of versions
            that made it on the test images; `rows` are then the rows of the study itself.
        earlier: what the tables show with a value chosen before, among other values.
    """

    field: str
    study: Study
    rows: list[Row]
    chosen: list[Row]
    validation_images: int | None
    earlier: Sequence[Row] = ()

    @property
    def values(self) -> list[float]:
        """The values tried, from the lowest to the highest."""
        return sorted({row.labels[self.field] for row in self.rows})

    @property
    def undecided(self) -> list[Row]:
        """A row of every configuration that has no chosen value."""
        decided = {_without(row, self.field) for row in self.chosen}
        groups = _by_configuration(self.rows, self.field)
        return [rows[0] for key, rows in groups.items() if key not in decided]


def read_tuning(out: Path, study: Study) -> Tuning | None:
    """What the study in `out` tried; None where nothing was tuned.

    Raises:
        StoreError: a file of a run is damaged, or a cell lacks the field that was tuned.
    """
    name = study.manifest.get("tuned_over")
    if not name:
        return None
    found = study.manifest.get("tuning")
    if found is None:
        rows = summarize_study(study)
        return Tuning(name, study, rows, chosen_rows(rows, name, study.metric), None)
    cells = read_cells(found)
    records = {name: read_record(out, name) for name in dict.fromkeys(c.run for c in cells)}
    check_metrics(out, study.manifest, records)
    tried = replace(study, manifest={**study.manifest, "skipped": []}, cells=cells, records=records)
    rows = summarize_study(tried)
    groups = _by_configuration(rows, name).values()
    ended = [row for group in groups for row in group if all(r.status in _ENDED for r in group)]
    chosen = chosen_rows(ended, name, study.metric)
    labels = [row.labels for row in chosen]
    earlier = [row for row in summarize_study(study) if row.labels not in labels]
    return Tuning(name, tried, rows, chosen, found["validation_images"], earlier)


def chosen_rows(rows: Sequence[Row], field: str, metric: Metric) -> list[Row]:
    """Of every configuration the row with the best mean over the values tried.

    A value of which some seed did not finish is chosen only when every value lacks seeds: the mean
    over the seeds that are left flatters it. Of equal results the first counts, and the first value
    stands for a configuration of which nothing finished.

    Args:
        rows: `field` is among their labels.

    Raises:
        StoreError: a cell without that label.
    """
    return [
        min(tried, key=lambda row: _rank(row, metric))
        for tried in _by_configuration(rows, field).values()
    ]


def tuned_briefly(tuning: Tuning) -> str:
    """In a sentence or two, what the results of a tuned study are those of."""
    if tuning.validation_images is None:
        on = "the test images themselves, which flatters it"
    else:
        on = f"{tuning.validation_images:,} validation images"
    text = (
        f"Each configuration has a {tuning.field} of its own, the best of those tried on {on}; "
        "all are under Tuning."
    )
    if missing := len(by_runs(tuning.undecided)):
        many = "one configuration" if missing == 1 else f"{missing} configurations"
        text += f" For {many} none is chosen yet."
    return f"{text} {_earlier(tuning)}".rstrip()


def how_tuned(tuning: Tuning) -> list[str]:
    """How the values were chosen, on what, and what that took, as paragraphs."""
    paragraphs = [_rule(tuning)]
    if tuning.validation_images is not None:
        paragraphs += _how_sure(tuning, tuning.validation_images)
    paragraphs += [*_at_the_edge(tuning), *_not_chosen(tuning)]
    paragraphs += [_earlier(tuning)] if tuning.earlier else []
    if tuning.study.manifest["shows"] in ("norms", "batch-size"):
        paragraphs += _orders(tuning)
    return paragraphs


def chosen_note(tuning: Tuning) -> str:
    """The values chosen, e.g. "base_lr chosen: bn, 32 images per worker: 0.1; ..."."""
    parts = [f"{_name(tuning, same)}: {_value(tuning, same[0])}" for same in by_runs(tuning.chosen)]
    return f"Values of {tuning.field} chosen: {'; '.join(parts) or 'none yet'}."


def tuning_table(tuning: Tuning) -> tuple[list[str], list[list[str]]]:
    """Header and one line for every value tried: norm, images per worker, value, result, choice."""
    lines = [
        [
            *label_cells(tuning.study, same),
            _value(tuning, same[0]),
            row_text(same[0], same[0].result),
            CHOSEN if same[0] in tuning.chosen else "",
        ]
        for same in by_runs(tuning.rows)
    ]
    where = " on the validation images"
    on = ": mean ± spread" if tuning.validation_images is None else where
    result = f"{noun(tuning.study.metric)}{on}"
    return [*label_columns(tuning.study), tuning.field, result, CHOSEN], lines


def _rule(tuning: Tuning) -> str:
    values, metric = _fairness(tuning), tuning.study.metric
    best, flattered = best_word(metric), "low" if is_better(metric, -1.0) else "high"
    if tuning.validation_images is None:
        return (
            f"Each configuration is shown with the {tuning.field} that gave it the {best} mean "
            f"{noun(metric)} among {values}. The choice was made on the test images themselves, as "
            f"the version that made this record did. So the {plural(metric)} shown are somewhat "
            f"too {flattered}, those of close values most."
        )
    runs = len(tuning.study.records)
    seed = next(iter({cell.seed for cell in tuning.study.cells}), 0)
    return (
        f"Each configuration has the {tuning.field} that gave it the {best} {noun(metric)} among "
        f"{values}. "
        f"They were tried with seed {seed} alone and compared on {tuning.validation_images:,} "
        "validation images, held out of the training images, the same share of every class. The "
        "runs of the tables were then trained with the chosen value, without holding out any, and "
        "evaluated on the test images, which had no part in the choice. The tuning took "
        f"{runs} {'run' if runs == 1 else 'runs'} beside those of the tables."
    )


def _fairness(tuning: Tuning) -> str:
    tried: dict[str, set[float]] = {}
    for row in tuning.rows:
        name = tuning.study.label(row.labels)
        tried.setdefault(name, set()).add(row.labels[tuning.field])
    if all(values == set(tuning.values) for values in tried.values()):
        listed = ", ".join(map(str, tuning.values))
        return f"the same {len(tuning.values)} values for every {tuning.study.axis} ({listed})"
    each = "; ".join(f"{name} {', '.join(map(str, sorted(v)))}" for name, v in tried.items())
    return (
        f"values that are not the same for every {tuning.study.axis} ({each}), which favours those "
        "of more"
    )


def _how_sure(tuning: Tuning, validation_images: int) -> list[str]:
    metric = tuning.study.metric
    means = [row.mean for row in tuning.chosen if row.mean is not None]
    single = "each value has a single run: which of close values was chosen is partly chance"
    if not means:
        return []
    if not is_share(metric):
        return [f"{capital(single)}."]
    share = sum(means) / len(means) / 100
    points = 100 * math.sqrt(share * (1 - share) / validation_images)
    return [
        f"On {validation_images:,} images the {noun(metric)} of one run is known to "
        f"{decimal_text(points)} {gap_unit(metric)} (one standard error), and {single}."
    ]


def _at_the_edge(tuning: Tuning) -> list[str]:
    """A sentence where the best value is the lowest or the highest of those tried."""
    values = tuning.values
    if len(values) < _ENOUGH:
        return []
    ends = {values[-1]: "highest"} | ({values[0]: "lowest"} if values[0] > 0 else {})
    parts = [
        f"{_name(tuning, same)} ({_value(tuning, same[0])}, "
        f"the {ends[same[0].labels[tuning.field]]})"
        for same in by_runs(tuning.chosen)
        if same[0].result and same[0].labels[tuning.field] in ends
    ]
    if not parts:
        return []
    return [
        f"The best {tuning.field} lies at the edge of the values tried, so that a better one may "
        f"lie beyond, for {'; '.join(parts)}: try more values."
    ]


def _not_chosen(tuning: Tuning) -> list[str]:
    """What has no value, or one that nothing speaks for."""
    found = []
    lost = [_name(tuning, same) for same in by_runs(tuning.chosen) if same[0].result is None]
    if lost:
        found.append(
            f"No value of {tuning.field} finished for {'; '.join(lost)}: the first "
            "one tried stands for it."
        )
    diverged = [same for same in by_runs(tuning.rows) if same[0].status == "diverged"]
    if diverged and tuning.validation_images is not None:
        names = "; ".join(_name(tuning, same, tuning.field) for same in diverged)
        found.append(
            f"Training diverged with {names}. Such a value is chosen only where every other one "
            "diverged too."
        )
    if tuning.undecided and tuning.validation_images is not None:
        names = "; ".join(_name(tuning, same) for same in by_runs(tuning.undecided))
        found.append(
            f"No value of {tuning.field} is chosen yet for {names}, because a run that tries one "
            "has not ended; it is listed under Problems, and the same command goes on with it."
        )
    return found


def _earlier(tuning: Tuning) -> str:
    """What is shown with a value that was chosen before; empty where nothing is."""
    names = "; ".join(
        f"{_name(tuning, same)} ({_value(tuning, same[0])})" for same in by_runs(tuning.earlier)
    )
    if not names:
        return ""
    return (
        f"The tables show the {tuning.field} that was chosen before, among other values, for "
        f"{names}. The same command goes on with the choice."
    )


def _orders(tuning: Tuning) -> list[str]:
    """Whether the order of the norms depends on the value, for every batch size."""
    paragraphs = []
    for batch in batch_sizes(tuning.rows):
        here = [row for row in tuning.rows if row.labels["batch_per_worker"] == batch]
        orders: dict[str, list[str]] = {}
        for value in tuning.values:
            mine = [row for row in here if row.labels[tuning.field] == value]
            mine.sort(key=lambda row: _rank(row, tuning.study.metric))
            if len(mine) >= _ENOUGH:
                orders.setdefault(_in_order(tuning, mine), []).append(str(value))
        if not orders:
            continue
        if len(orders) == 1:
            (order,) = orders
            text = f"is the same at every {tuning.field} tried, the best first: {order}"
        else:
            parts = [f"{order} at {', '.join(values)}" for order, values in orders.items()]
            text = f"changes with {tuning.field}: {'; '.join(parts)}"
        paragraphs.append(
            f"At {batch} images per worker the order of the norms, by one run each, {text}."
        )
    return paragraphs


def _by_configuration(rows: Sequence[Row], field: str) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if field not in row.labels:
            raise StoreError(
                f"study.json was tuned over {field!r}, but a cell has no such label; it has "
                f"{', '.join(row.labels)}"
            )
        groups.setdefault(_without(row, field), []).append(row)
    return groups


def _without(row: Row, field: str) -> str:
    rest = {key: value for key, value in row.labels.items() if key != field}
    return json.dumps(rest, sort_keys=True)


def _name(tuning: Tuning, same: Sequence[Row], field: str | None = None) -> str:
    """What the report calls a configuration, as in `label_of`."""
    axis = tuning.study.axis
    labels = {**same[0].labels, axis: tuning.study.label(same[0].labels)}
    return label_of([replace(same[0], labels=labels), *same[1:]], field)


def _value(tuning: Tuning, row: Row) -> str:
    return str(row.labels[tuning.field])


def _in_order(tuning: Tuning, rows: Sequence[Row]) -> str:
    """Norms in the order of their results, as "gn < bn = ln"; of rows that are sorted so."""
    text, metric = "", tuning.study.metric
    other = " < " if is_better(metric, -1.0) else " > "
    for before, row in zip([None, *rows], rows, strict=False):
        if before is not None:
            same = _rank(before, metric) == _rank(row, metric)
            text += " = " if same and row.result else other
        text += tuning.study.called(row.labels["norm"])
        text += "" if row.result else f" ({row.status})"
    return text


def _rank(row: Row, metric: Metric) -> tuple[bool, bool, float]:
    result = row.result
    value = rank(metric, result.mean) if result else 0.0
    return result is None, row.status != "finished", value
