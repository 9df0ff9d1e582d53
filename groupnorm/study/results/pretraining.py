"""The runs that those of a study start from: what their results say of each configuration.

A detector starts from a classifier's weights. How good that classifier is decides a part of the
detector's result, so that the two stand beside each other.
"""

from __future__ import annotations

from collections.abc import Sequence

from groupnorm.counts import counted
from groupnorm.study.results.estimates import Estimate, estimate
from groupnorm.study.results.labels import NOTHING, estimate_text
from groupnorm.study.results.rows import LAST_EPOCHS, Row, Study, final_result, run_status
from groupnorm.study.results.wording import axis_label
from groupnorm.study.store import Record
from groupnorm.training.metric import Metric, metrics_of


def started_from(study: Study, row: Row) -> list[Record]:
    """The runs that a configuration's runs start from, each once; none of one from scratch."""
    named = (study.records[name].config.get("init") for name in row.runs)
    return [study.initial[name] for name in dict.fromkeys(named) if name]


def pretraining_metric(record: Record) -> Metric:
    """What the result of an initial run is given in: the first metric that it measures."""
    return metrics_of(record.env)[0]


def pretraining_result(records: Sequence[Record], metric: Metric) -> Estimate | None:
    """The mean of `metric` over initial runs, each by its own rule of last epochs.

    None unless all have finished and measure it.
    """
    values = [_result(record, metric) for record in records]
    known = [value for value in values if value is not None]
    return estimate(known) if len(known) == len(values) else None


def pretraining_metrics(study: Study) -> list[Metric]:
    """The metrics of all initial runs that were begun, each once."""
    begun = [record for record in study.initial.values() if record.env]
    return list(dict.fromkeys(pretraining_metric(record) for record in begun))


def pretraining_header(study: Study) -> list[str]:
    """A heading for each metric of the initial runs, above `pretraining_cells`."""
    return [
        axis_label(metric, f"pretraining: {metric.title}") for metric in pretraining_metrics(study)
    ]


def pretraining_cells(study: Study, row: Row) -> list[str]:
    """The result of what a row starts from and its epochs, for each metric of the initial runs."""
    records = started_from(study, row)
    return [_cell(records, metric) for metric in pretraining_metrics(study)]


def _cell(records: Sequence[Record], metric: Metric) -> str:
    if not records:
        return NOTHING
    result = pretraining_result(records, metric)
    if result is None:
        bad = (run_status(record, metric)[0] for record in records)
        return next((status for status in bad if status != "finished"), NOTHING)
    epochs = {len(record.metrics) for record in records}
    length = counted(epochs.pop(), "epoch") if len(epochs) == 1 else "several lengths"
    return f"{estimate_text(result)} ({length})"


def _result(record: Record, metric: Metric) -> float | None:
    if record.status != "finished" or metric not in metrics_of(record.env):
        return None
    last = record.config.get("reported_epochs", LAST_EPOCHS)
    return final_result(record.metrics, metric, last=last)
