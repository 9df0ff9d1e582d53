"""Which metrics a study is about: what its record says, and whether its runs agree."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from groupnorm.study.store import Record, StoreError, run_folder
from groupnorm.training.metric import CLASSIFICATION, TRAINING, Metric, metrics_of


def primary_metric(manifest: Mapping[str, Any]) -> Metric:
    """The metric that a study compares; that of classifiers where `study.json` names none."""
    named = manifest.get("metric")
    return CLASSIFICATION[0] if named is None else Metric(**named)


def further_metrics(manifest: Mapping[str, Any]) -> tuple[Metric, ...]:
    """The metrics that a study shows beside the one that it compares."""
    return tuple(Metric(**named) for named in manifest.get("also") or ())


def check_metrics(out: Path, manifest: Mapping[str, Any], records: Mapping[str, Record]) -> None:
    """Check that every run that was begun measures what the study in `out` is about.

    A metric that is shown beside it may be missing from a run: boxes alone have no AP of masks.

    Raises:
        StoreError: a run measures other metrics, or calls another unit or direction its own; or all
            runs were begun, and none measures a metric that is shown.
    """
    primary, *further = primary_metric(manifest), *further_metrics(manifest)
    for name, record in records.items():
        if not record.env:
            continue
        measured = metrics_of(record.env)
        names = {metric.name for metric in measured}
        for metric in (primary, *(one for one in further if one.name in names)):
            if metric not in measured:
                raise StoreError(
                    f"{run_folder(out, name) / 'env.json'} is of a run that measures "
                    f"{_listed(measured)}; study.json is about {_described(metric)}. The runs of a "
                    "study must agree: leave out the run, or correct study.json"
                )

    if not records or not all(record.env for record in records.values()):
        return
    known = {metric.name for record in records.values() for metric in metrics_of(record.env)}
    for metric in further:
        if metric.name not in known:
            raise StoreError(
                f"{out / 'study.json'} shows {_described(metric)}, which no run measures; name "
                f'metrics of its runs ({", ".join(sorted(known))}), or leave it out of "also"'
            )


def training_metric(metric: Metric, records: Mapping[str, Record]) -> Metric | None:
    """The same metric of the training examples, where runs measure it; else None."""
    name = TRAINING + metric.name.removeprefix("val_")
    envs = [record.env for record in records.values() if record.env] or [{}]
    found = (one for env in envs for one in metrics_of(env) if one.name == name)
    return next(found, None)


def titles_of(records: Mapping[str, Record]) -> dict[str, str]:
    """What the runs call every metric that they measure, by its name."""
    every = (metric for record in records.values() for metric in metrics_of(record.env))
    return {metric.name: metric.title for metric in every}


def _listed(metrics: tuple[Metric, ...]) -> str:
    return " and ".join(_described(metric) for metric in metrics)


def _described(metric: Metric) -> str:
    unit = f" in {metric.unit}" if metric.unit else ""
    return f"{metric.title} ({metric.name}{unit}, {metric.better} is better)"
