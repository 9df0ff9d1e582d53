"""The numbers of a report for programs: what `groupnorm report --json` prints, differences.csv.

docs/study.md describes the keys. Every row has the same ones; what a row does not have is null.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from groupnorm.study.results.differences import DifferenceLine, differences_of, has_parts
from groupnorm.study.results.estimates import Estimate
from groupnorm.study.results.findings import appearances
from groupnorm.study.results.labels import group_labels
from groupnorm.study.results.outcomes import (
    as_settings,
    epochs_trained,
    full_runs,
    norms_of,
    outcome,
    search_of,
)
from groupnorm.study.results.pretraining import (
    pretraining_metrics,
    pretraining_result,
    started_from,
)
from groupnorm.study.results.rows import Row, Study, images_of
from groupnorm.study.results.rules import epochs_rule
from groupnorm.study.results.tuning import Tuning
from groupnorm.study.results.wording import key, unit_words


def study_numbers(study: Study, rows: Sequence[Row]) -> dict[str, Any]:
    """How the results are made, a row for each configuration, and the differences; unrounded."""
    names = list(dict.fromkeys(key for row in rows for key in row.labels))
    return {
        "study": study.manifest["study"],
        "unit": ", ".join(filter(None, (unit_words(study.metric), study.metric.title))),
        **{key: study.manifest[key] for key in ("metric", "also") if key in study.manifest},
        "epochs_rule": epochs_rule(study, length=False) or None,
        "reported_epochs": study.reported_epochs if study.begun else None,
        "evaluated_on": images_of(study.records.values()),
        **({"ceilings": study.manifest["data"].get("ceilings", {})} if study.of_clips else {}),
        "rows": [{**_row(study, row, names), **_epochs(study, row)} for row in rows],
        "differences": difference_numbers(study, rows),
        **_published_findings(study, rows),
    }


def tuning_numbers(tuning: Tuning) -> dict[str, Any]:
    """What a tuned study tried: a row for each configuration with each value, the chosen marked."""
    names = list(dict.fromkeys(key for row in tuning.rows for key in row.labels))
    return {
        "field": tuning.field,
        "validation_images": tuning.validation_images,
        "rows": [
            {**_row(tuning.study, row, names), "chosen": row in tuning.chosen}
            for row in tuning.rows
        ],
    }


def search_numbers(study: Study) -> dict[str, Any]:
    """What a search tried and found; a result is null where training diverged."""
    search, results = search_of(study), f"{key(study.metric)}s"
    return {
        "done": search.done,
        "chosen": search.chosen,
        "as_settings": None if search.chosen is None else as_settings(search.chosen),
        "rule": search.rule,
        "refined": search.refined,
        "outcomes": {norm: outcome(search, norm) for norm in norms_of(search)},
        "rungs": [
            {
                "epochs": rung.epochs,
                results: _finite(rung.results),
                "kept": list(rung.kept),
                "dropped": list(rung.dropped),
            }
            for rung in search.rungs
        ],
        "steps": [
            {
                "part": step.part,
                "before": step.before,
                results: _finite(step.results),
                "best": step.best,
            }
            for step in search.steps
        ],
        "discarded": search.discarded,
        "epochs_trained": epochs_trained(study),
        "full_runs": full_runs(study),
        "settings": dict(search.settings),
    }


def difference_numbers(study: Study, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The differences, unrounded: one for each row that has one, by `difference_columns`.

    First those of the study's metric, then those of further ones.
    """
    found = [
        one for further in (None, *study.further) for one in differences_of(study, rows, further)
    ]
    return [_difference(study, one, row) for one in found for row in one.rows]


_YES_OR_NO = ("recomputed", "told_apart", "parts_told_apart")


def difference_columns(study: Study) -> list[str]:
    """What is given of each difference."""
    columns = [
        study.axis, "recomputed", "against", *group_labels(study), "difference", "standard_error",
        "low", "high", "pairs", "left_out", "told_apart", "verdict", "seeds_for_one_point",
    ]  # fmt: skip
    if has_parts(study):
        columns += [
            "parts_difference", "parts_standard_error", "parts_low", "parts_high", "parts",
            "parts_told_apart",
        ]  # fmt: skip
    return columns + ["metric"] * bool(study.further)


def differences_csv(study: Study, rows: Sequence[Row]) -> str:
    """The same as lines of a file; empty where there is no number."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, difference_columns(study), lineterminator="\n")
    writer.writeheader()
    words = {True: "yes", False: "no"}
    for line in difference_numbers(study, rows):
        known = [key for key in _YES_OR_NO if key in line]
        marked = {key: words.get(line[key]) for key in known}
        writer.writerow({**line, **marked})
    return buffer.getvalue()


def _published_findings(study: Study, rows: Sequence[Row]) -> dict[str, Any]:
    """What was published of two arms, and what is here; nothing of a record that names none."""
    found = appearances(study, rows)
    lines = [
        {
            **one.finding.as_json(),
            "difference": one.over_seeds.mean if one.over_seeds else None,
            "parts_difference": one.on_parts.mean if one.on_parts else None,
            "appears": one.answer,
        }
        for one in found
    ]
    return {"findings": lines} if lines else {}


def _starts(study: Study, row: Row) -> dict[str, Any]:
    """What the runs of a row start from; nothing in a study where no run starts from another."""
    if not study.initial:
        return {}
    records = started_from(study, row)
    results = {
        key(metric): found.mean
        for metric in pretraining_metrics(study)
        if (found := pretraining_result(records, metric))
    }
    return {"pretraining": {"runs": [record.name for record in records], **results}}


def _epochs(study: Study, row: Row) -> dict[str, int]:
    """The epoch that a search asks a row's runs to be trained to; nothing of other studies."""
    return {"epochs": study.search.epochs_asked(row.labels["norm"])} if study.search else {}


def _finite(results: Mapping[str, float]) -> dict[str, float | None]:
    return {norm: result if math.isfinite(result) else None for norm, result in results.items()}


def _row(study: Study, row: Row, names: Sequence[str]) -> dict[str, Any]:
    name, training = key(study.metric), study.training
    recomputed = f"recomputed_{name}"
    return {
        **{name: row.labels.get(name) for name in names},
        "status": row.status,
        "reason": row.reason,
        "seeds_asked": row.asked,
        "seeds_finished": row.finished,
        "evaluated_on": row.evaluated_on,
        **_estimate(name, row.result),
        **_estimate(recomputed, row.precise),
        **({} if training is None else {training.name: row.train_result}),
        **{
            column: value
            for other in study.further
            for column, value in _estimate(key(other), row.further_result(other)).items()
        },
        **_starts(study, row),
        "seeds": [
            {
                "seed": seed,
                name: value,
                recomputed: row.precise_results.get(seed),
                **{key(other): row.further[other.name].get(seed) for other in study.further},
            }
            for seed, value in row.results.items()
        ],
    }


def _estimate(name: str, found: Estimate | None) -> dict[str, float | None]:
    low, high = (found.interval if found else None) or (None, None)
    return {
        name: found.mean if found else None,
        f"{name}_spread": found.spread if found else None,
        f"{name}_low": low,
        f"{name}_high": high,
    }


def _difference(study: Study, one: DifferenceLine, row: Row) -> dict[str, Any]:
    found = one.difference
    low, high = (found.interval if found else None) or (None, None)
    values = [
        one.name, one.recomputed, one.against,
        *(row.labels.get(label) for label in group_labels(study)), found.mean if found else None,
        found.standard_error if found else None, low, high, found.pairs if found else 0,
        found.left_out if found else None, found.told_apart if found else None, one.verdict,
        one.seeds_needed,
    ]  # fmt: skip
    if has_parts(study):
        parts = one.on_parts
        ends = (parts.interval if parts else None) or (None, None)
        values += [
            parts.mean if parts else None, parts.standard_error if parts else None, *ends,
            parts.pairs if parts else 0, parts.told_apart if parts else None,
        ]  # fmt: skip
    values += [key(one.metric)] * bool(study.further)
    return dict(zip(difference_columns(study), values, strict=True))
