"""The tables of a report: the main one, that of every run, the problems, and the settings."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from groupnorm.counts import counted
from groupnorm.data.issues import describe_altered, describe_unreadable
from groupnorm.data.validation import validation_note
from groupnorm.study.report.conversion_tables import conversion_problems, kept_table
from groupnorm.study.results.costs import COSTS, run_cost
from groupnorm.study.results.estimates import Estimate
from groupnorm.study.results.format import decimal_text
from groupnorm.study.results.labels import (
    NOTHING,
    RECOMPUTED,
    estimate_text,
    label_cells,
    label_columns,
    label_names,
    label_of,
    label_text,
    number_text,
    row_text,
    varied_labels,
)
from groupnorm.study.results.outcomes import rung_table
from groupnorm.study.results.pretraining import pretraining_cells, pretraining_header
from groupnorm.study.results.published import DIVISIONS
from groupnorm.study.results.rows import (
    ONCE,
    Row,
    Study,
    by_runs,
    final_result,
    images_of,
    run_status,
    seeds_text,
    step_memory_bytes,
    subject,
    trained_once,
)
from groupnorm.study.results.rules import epochs_rule, rules_note, title_images
from groupnorm.study.results.samples import Samples
from groupnorm.study.results.wording import (
    axis_label,
    capital,
    gap_unit_in_full,
    in_unit,
    noun,
    plural,
)
from groupnorm.study.store import UNREADABLE

SAME = "same"


@dataclass(frozen=True)
class RunGroup:
    """Rows of the table of every run that share a configuration.

    `shared` are the first cells, the same for every seed; `seeds` the others, one list a seed.
    """

    shared: list[str]
    seeds: list[list[str]]


def main_table_of(study: Study, rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the main table, as strings.

    A norm that was trained once for all batch sizes is marked and has its number in the first
    column alone.
    """
    if study.search is not None:
        return rung_table(study, rows)
    if study.of_conversions:
        kept = kept_table(study.conversions)
        return list(kept.header), [list(line) for line in kept.body]
    if study.manifest["shows"] == "groups":
        return _groups_table(study, rows)
    if study.axis != "norm":
        return _arms_table(study, rows)
    if study.of_clips:
        return _clips_table(study, rows)
    skipped = study.manifest.get("skipped", [])
    labels = [row.labels for row in rows] + [skip["labels"] for skip in skipped]
    batches = sorted({label["batch_per_worker"] for label in labels}, reverse=True)
    by_labels = {(row.labels["norm"], row.labels["batch_per_worker"]): row for row in rows}
    gone = {(s["labels"]["norm"], s["labels"]["batch_per_worker"]) for s in skipped}
    table = []
    once = trained_once(rows)
    for norm in dict.fromkeys(label["norm"] for label in labels):
        mine = [by_labels.get((norm, batch)) for batch in batches]
        repeated = [batch for batch, row in zip(batches, mine, strict=True) if row][1:]
        same = set(repeated if norm in once else ())
        name = study.called(norm)
        table.append(
            [
                f"{name} {ONCE}" if same else name,
                *(SAME if b in same else _cell_text(by_labels, gone, (norm, b)) for b in batches),
            ]
        )
        if any(row and row.precise for row in mine):
            cells = [
                SAME if batch in same else row_text(row, row.precise) if row else NOTHING
                for batch, row in zip(batches, mine, strict=True)
            ]
            table.append([f"{name} {RECOMPUTED}", *cells])
    return ["images per worker", *map(str, batches)], table


def main_title_of(study: Study, rows: list[Row]) -> str:
    """The main table's title, e.g. "Top-1 error in percent: resnet8 on digits, ..., 3 seeds"."""
    if study.of_conversions:
        return kept_table(study.conversions).caption
    metric = study.metric
    count = seeds_text(rows) if rows else ""
    if any(row.spread is not None for row in rows):
        count = f"mean ± standard deviation over {count}"
    tuned, best = study.manifest.get("tuned_over"), ""
    if tuned:
        on = "validation" if study.manifest.get("tuning") else "test"
        best = f", at the best {tuned} of those tried on {on} images"
    of = ", ".join(part for part in (subject(study), epochs_rule(study), count) if part)
    title = f"{capital(metric.title)}{in_unit(metric)}"
    if (study.axis != "norm" or study.of_clips) and study.further:
        title = capital(", ".join(one.title for one in (metric, *study.further)))
    return f"{title}{title_images(study)}: {of}{best}"


def differences_title_of(study: Study) -> str:
    """The title of the table of differences."""
    metric = study.metric
    of = ", ".join(part for part in (subject(study), epochs_rule(study)) if part)
    return (
        f"Differences of {metric.title} in {gap_unit_in_full(metric)}{title_images(study)}: {of}, "
        "over the seeds that both have, with the 95 % interval of their mean by Student's t"
    )


@dataclass(frozen=True)
class Measure:
    """A column of the table of every run: its heading and its key in the rows of a record."""

    title: str
    name: str


def measures_of(study: Study) -> list[Measure]:
    """What the table of every run shows of each run.

    The value with recomputed statistics, and that of the training examples, are among it where some
    run records them, be it as null, or as long as none was evaluated.
    """
    metric, found = study.metric, [Measure(noun(study.metric), study.metric.name)]
    evaluated = [
        row
        for record in study.records.values()
        for row in record.metrics
        if row.get(metric.name) is not None
    ]
    training = study.training
    if not evaluated or any(metric.precise in row for row in evaluated):
        found.append(Measure("recomputed", metric.precise))
    if training and (not evaluated or any(training.name in row for row in evaluated)):
        found.append(Measure(training.title, training.name))
    return found + [Measure(other.title, other.name) for other in study.further]


def run_header(study: Study) -> list[str]:
    """What stands above `run_groups`."""
    titles = [measure.title for measure in measures_of(study)]
    means = [f"{title}: mean ± spread" for title in _means(study)]
    return [*label_columns(study), *means, "seed", "status", *titles, "memory of a step",
            "parameters"]  # fmt: skip


def run_groups(study: Study, rows: list[Row]) -> list[RunGroup]:
    """Every run once, grouped by configuration; a run that fills several cells names them all."""
    seeds = {cell.run: cell.seed for cell in study.cells}
    tuned = study.manifest.get("tuned_over")
    groups = []
    for same in by_runs(rows):
        row = same[0]
        names, *others = label_cells(study, same)
        if tuned:
            names += f", {tuned} {row.labels[tuned]}"
        means = [estimate_text(value(row), 2) for value in _means(study).values()]
        shared = [names, *others, *means]
        groups.append(RunGroup(shared, [_run_cells(study, seeds[name], name) for name in row.runs]))
    return groups


def problems(study: Study, rows: list[Row]) -> list[list[str]]:
    """[where, what, reason]: rows not finished or skipped, what records and the data lack."""
    tuned = study.manifest.get("tuned_over")
    bad = [
        [label_of(same, tuned), same[0].status, same[0].reason or ""]
        for same in by_runs(rows)
        if same[0].status != "finished"
    ]
    skipped = study.manifest.get("skipped", [])
    bad += [[label_text(s["labels"]), "skipped", s["reason"]] for s in skipped]
    note = rules_note(study)
    bad += [[plural(study.metric), "different rules", note]] if note else []
    bad += conversion_problems(study.conversions)
    return bad + _gaps(study, rows) + _data_problems(study)


def not_predicted(study: Study, rows: list[Row], samples: Samples) -> list[list[str]]:
    """[where, what, reason]: what the sheet of predictions lacks, and what was left out of it."""
    what = f"no predictions on {samples.things}s"
    found = [] if samples.reason is None else [["predictions", what, samples.reason]]
    found += [
        [
            "predictions",
            f"unreadable {samples.things.split()[1]}s",
            f"{file}, whose place the next one takes: {why}",
        ]
        for file, why in samples.unreadable.items()
    ]
    for row in rows:
        name = label_of([row], study.manifest.get("tuned_over"))
        gone = [(run, samples.left_out[run]) for run in row.runs if run in samples.left_out]
        found += [[name, what, f"{run}: {why}"] for run, why in gone]
        for run in row.runs:
            if count := samples.runs.get(run, {}).get("not_finite", 0):
                why = f"{counted(count, samples.found)} of {run} had a value that is not a number"
                found.append([name, "left out of the predictions", why])
    return found


def _gaps(study: Study, rows: list[Row]) -> list[list[str]]:
    """Of runs that have ended: the files without which it is not known how they were trained."""
    tuned = study.manifest.get("tuned_over")
    found = []
    for same in by_runs(rows):
        for name in same[0].runs:
            record = study.records[name]
            if record.status not in ("finished", "diverged") or not study.trained:
                continue
            for file, held in (("config.json", record.config), ("env.json", record.env)):
                if not held:
                    text = f"runs/{name}/{file} is missing or empty"
                    found.append([label_of(same, tuned), "incomplete record", text])
    return found


def _data_problems(study: Study) -> list[list[str]]:
    """Of the data sets: files that could not be decoded, or are not used as they are."""
    of_study = str(study.manifest.get("data", {}).get("name", "data"))
    found: dict[tuple[str, str, str], str] = {}
    for name, record in {**study.initial, **study.records}.items():
        where = of_study if name in study.records else record.config.get("data", "data")
        held_out = record.config.get("validation_images")
        for note in record.env.get("data_notes", []):
            if study.of_conversions and held_out and note == validation_note(held_out):
                continue  # that is so of teachers alone, not of what is shown
            found.setdefault((where, "data", note), "")
        counts = record.metrics[-1].get("image_counts", {}) if record.metrics else {}
        if text := describe_unreadable(counts):
            named = f"; named in runs/{name}/{UNREADABLE}"
            found.setdefault((where, "unreadable files", text), named)
        for kind, text in describe_altered(counts).items():
            found.setdefault((where, kind, text), "")
    return [[where, what, text + named] for (where, what, text), named in found.items()]


def settings(records: Iterable[dict[str, Any]]) -> list[list[str]]:
    """[key, value] of what all records agree on, or every value of a key they differ in.

    A key that is empty everywhere, as `norms` is without norms of places, is left out.
    """
    values: dict[str, dict[str, None]] = {}
    filled: dict[str, bool] = {}
    for record in records:
        for key, value in record.items():
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            empty = value in ({}, [], "")
            text = NOTHING if value is None or empty else text
            filled[key] = filled.get(key, False) or not empty
            values.setdefault(key, {})[text] = None
    return [[key, "; ".join(found)] for key, found in values.items() if filled[key]]


def tables_csv(study: Study, rows: list[Row], chosen: list[Row] | None = None) -> str:
    """One line for every cell and seed, with the numbers unrounded; empty where there is none.

    With `chosen`, the rows that tuning chose among `rows`, a first column says which they are.
    """
    names = list(dict.fromkeys(key for row in rows for key in row.labels))
    mark = [] if chosen is None else ["chosen"]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    costs = [key for key in COSTS if any(key in row.cost for row in rows)]
    writer.writerow([*mark, *names, *_csv_columns(study), *costs])
    metric, measures = study.metric, _csv_measures(study)
    times, last, rule = study.cost_pass.times, study.reported_epochs, epochs_rule(study, False)
    seeds = {(json.dumps(c.labels, sort_keys=True), c.run): c.seed for c in study.cells}
    for row in rows:
        key = json.dumps(row.labels, sort_keys=True)
        interval = row.result.interval if row.result else None
        for name in row.runs:
            record = study.records[name]
            status, reason = run_status(record, study.metric_of(record))
            done = status == "finished"
            cost = run_cost(record, times.get(name))
            writer.writerow(
                [
                    *([] if chosen is None else ["yes" if row in chosen else "no"]),
                    *(row.labels.get(label) for label in names),
                    seeds[key, name], name, status, reason, len(record.metrics),
                    *(final_result(record.metrics, metric, measure, last=last) if done else None
                      for measure in measures),
                    step_memory_bytes(record), record.env.get("parameters"), row.mean,
                    row.spread, row.precise_mean, row.precise_spread, row.finished, row.asked,
                    *(interval or (None, None)), rule, images_of([record]),
                    *(cost.get(key) for key in costs),
                ]
            )  # fmt: skip
    return buffer.getvalue()


def _csv_measures(study: Study) -> list[str]:
    """The measures of a run in tables.csv, each with a column whether or not a run has it."""
    metric, training = study.metric, study.training
    known = [metric.name, metric.precise, *([training.name] if training else [])]
    return known + [other.name for other in study.further]


def _csv_columns(study: Study) -> list[str]:
    """The columns of tables.csv between the labels and the costs."""
    name, precise = study.metric.name, study.metric.precise
    return [
        "seed", "run", "status", "reason", "epochs", *_csv_measures(study), "step_memory_bytes",
        "parameters", f"{name}_mean", f"{name}_spread", f"{precise}_mean", f"{precise}_spread",
        "seeds_finished", "seeds_asked", f"{name}_low", f"{name}_high", "epochs_rule",
        "evaluated_on",
    ]  # fmt: skip


def _means(study: Study) -> dict[str, Callable[[Row], Estimate | None]]:
    """The means over seeds in the table of every run, by their headings."""
    found: dict[str, Callable[[Row], Estimate | None]] = {noun(study.metric): lambda r: r.result}
    if any(measure.name == study.metric.precise for measure in measures_of(study)):
        found["recomputed"] = lambda row: row.precise
    return found


def _arms_table(study: Study, rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """A line for each arm, and a column for each metric; then what the arm starts from.

    What the same runs give at several numbers of images per worker is there once.

    An arm that has results with recomputed statistics has a second line of them.
    """
    shown = (study.metric, *study.further)
    titles = [axis_label(metric, metric.title) for metric in shown]
    header = [*label_columns(study), *titles, *pretraining_header(study)]
    body = []
    for same in by_runs(rows):
        row, (name, *others) = same[0], label_cells(study, same)
        for recomputed in (False, True) if row.precise else (False,):
            results = [row.precise if recomputed else row.result]
            results += [row.further_result(other, recomputed) for other in study.further]
            body.append(
                [
                    f"{name} {RECOMPUTED}" if recomputed else name,
                    *others,
                    *(row_text(row, result) for result in results),
                    *pretraining_cells(study, row),
                ]
            )
    for skip in study.manifest.get("skipped", []):
        names = [str(skip["labels"].get(name, NOTHING)) for name in label_names(study)]
        body.append([*names, "skipped", *[NOTHING] * (len(header) - len(names) - 1)])
    return header, body


def _clips_table(study: Study, rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """A line for each norm, length of the clips and number of them per worker; metrics as columns.

    A norm that has results with recomputed statistics has a second line of them.
    """
    shown = (study.metric, *study.further)
    header = [*label_columns(study), *(axis_label(metric, metric.title) for metric in shown)]
    body = []
    for same in by_runs(rows):
        row, (name, *others) = same[0], label_cells(study, same)
        for recomputed in (False, True) if row.precise else (False,):
            results = [row.precise if recomputed else row.result]
            results += [row.further_result(other, recomputed) for other in study.further]
            called = f"{name} {RECOMPUTED}" if recomputed else name
            body.append([called, *others, *(row_text(row, result) for result in results)])
    for skip in study.manifest.get("skipped", []):
        labels = skip["labels"]
        names = [study.label(labels), str(labels["frames"]), str(labels["batch_per_worker"])]
        names += [str(labels.get(name, NOTHING)) for name in varied_labels(study)]
        body.append([*names, "skipped", *[NOTHING] * len(study.further)])
    return header, body


def _groups_table(study: Study, rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    skipped = study.manifest.get("skipped", [])
    labels = [row.labels for row in rows] + [skip["labels"] for skip in skipped]
    values = sorted({label["value"] for label in labels}, reverse=True)
    by_labels = {(row.labels["division"], row.labels["value"]): row for row in rows}
    gone = {(s["labels"]["division"], s["labels"]["value"]) for s in skipped}
    table = [
        [name, *(_cell_text(by_labels, gone, (division, value)) for value in values)]
        for division, name in DIVISIONS.items()
        if any(label["division"] == division for label in labels)
    ]
    return ["group division", *map(str, values)], table


def _cell_text(
    by_labels: dict[tuple[str, int], Row], gone: set[tuple[str, int]], key: tuple[str, int]
) -> str:
    row = by_labels.get(key)
    if row is None:
        return "skipped" if key in gone else NOTHING
    return row_text(row, row.result)


def _run_cells(study: Study, seed: int, name: str) -> list[str]:
    record = study.records[name]
    metric = study.metric_of(record)
    status, _ = run_status(record, metric)
    done, last = status == "finished", study.reported_epochs
    values = [
        final_result(record.metrics, metric, measure.name, last=last) if done else None
        for measure in measures_of(study)
    ]
    memory = step_memory_bytes(record)
    parameters = record.env.get("parameters")
    return [
        str(seed),
        status,
        *(number_text(value, 2) for value in values),
        f"{decimal_text(memory / 2**20, 0)} MiB" if memory else NOTHING,
        number_text(parameters, 0),
    ]
