"""Statistics of a study: one row per configuration, aggregated over its seeds.

Text, tables, figures and the terminal all read the rows made here, so that no two of them can
show different numbers. Results are values of the metric that the record is about.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

from groupnorm.counts import counted
from groupnorm.run.tasks import config_class
from groupnorm.study.metrics import (
    check_metrics,
    further_metrics,
    primary_metric,
    training_metric,
)
from groupnorm.study.results.conversions import NetworkOutcomes, read_conversions
from groupnorm.study.results.costs import CostPass, mean_cost, read_cost_pass, run_cost
from groupnorm.study.results.estimates import Estimate, estimate
from groupnorm.study.results.parts import ByPart, part_results
from groupnorm.study.results.search import Search, as_asked, read_search
from groupnorm.study.results.wording import noun, with_article
from groupnorm.study.store import (
    Cell,
    Record,
    is_number,
    read_cells,
    read_initial,
    read_manifest,
    read_record,
    read_starts,
)
from groupnorm.training.metric import Metric, metrics_of

# From best to worst; the status of a row is the worst one among its seeds.
STATUSES = ("finished", "partial", "missing", "diverged", "failed")
# How many last epochs a result is the median of in records that do not say it: the paper's rule.
LAST_EPOCHS = 5
# The protocol of a study whose networks come from elsewhere.
NO_TRAINING = "no training"
# Said of a norm that one training, with each seed, stands for at several batch sizes.
ONCE = "(trained once)"


@dataclass(frozen=True)
class Row:
    """One configuration of a study, aggregated over its seeds.

    Only finished seeds enter a number; `status` and `reason` tell what became of the others.

    Attributes:
        labels: what the study varied, as in the manifest.
        runs: the name of the run of every seed, in the manifest's order.
        finished: number of seeds that finished.
        asked: number of seeds asked for.
        status: "finished", or the worst status among the seeds (see `STATUSES`).
        reason: why a row is not "finished", e.g. "2 of 3 seeds diverged: loss is not finite".
        results: the reported value of the study's metric per finished seed: the median over the
            last epochs of its run (`Study.reported_epochs`).
        precise_results: the same with recomputed statistics; empty for a norm without any.
        train_result: mean over seeds of the same metric of the training examples.
        further: by the name of a further metric of the study, and by its name with recomputed
            statistics, its value per finished seed.
        parts: by the name of the study's metric and of further ones, for each finished seed the
            value on every part of the test images; empty where the runs record none.
        step_memory_bytes: what a training step takes on top of what is there; the largest of any
            seed. None for records that hold the peak of the whole process instead.
        parameters: number of trained parameters.
        cost: means over seeds of what a run costs, by the keys of `costs.COSTS`; of older records
            some or all are missing.
        evaluated_on: the images that results were measured on, in words; see `images_of`. None
            before any run was begun.
    """

    labels: dict[str, Any]
    runs: tuple[str, ...]
    finished: int
    asked: int
    status: str
    reason: str | None
    results: dict[int, float]
    precise_results: dict[int, float]
    train_result: float | None
    step_memory_bytes: int | None
    parameters: int | None
    cost: dict[str, float] = field(default_factory=dict)
    evaluated_on: str | None = "test images"
    further: dict[str, dict[int, float]] = field(default_factory=dict)
    parts: dict[str, dict[int, ByPart]] = field(default_factory=dict)

    @property
    def result(self) -> Estimate | None:
        """Mean and spread of the reported value; None when no seed finished."""
        return estimate(self.results.values())

    @property
    def precise(self) -> Estimate | None:
        """Mean and spread with recomputed statistics; None when there are none."""
        return estimate(self.precise_results.values())

    @property
    def mean(self) -> float | None:
        """Mean of the reported value over the finished seeds."""
        return self.result.mean if self.result else None

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over the finished seeds; None for fewer than two."""
        return self.result.spread if self.result else None

    @property
    def precise_mean(self) -> float | None:
        """`mean` with recomputed statistics."""
        return self.precise.mean if self.precise else None

    @property
    def precise_spread(self) -> float | None:
        """`spread` with recomputed statistics."""
        return self.precise.spread if self.precise else None

    def further_result(self, metric: Metric, recomputed: bool = False) -> Estimate | None:
        """Mean and spread of a further metric of the study, or of it with recomputed statistics."""
        name = metric.precise if recomputed else metric.name
        return estimate(self.further.get(name, {}).values())


@dataclass(frozen=True)
class Study:
    """A study as read from its store: the manifest, its cells and every run they name.

    `initial` are the runs that others start from, by name; one that is not in the study's folder
    has the status "missing". `names` is what the report calls a norm, or an arm, for which the
    reader chose a name. In a search every run counts as finished that has come as far as it was
    asked to. `conversions` are what trials with the runs' networks gave, by network.
    """

    manifest: dict[str, Any]
    cells: list[Cell]
    records: dict[str, Record]
    cost_pass: CostPass = field(default_factory=CostPass)
    names: dict[str, str] = field(default_factory=dict)
    search: Search | None = None
    initial: dict[str, Record] = field(default_factory=dict)
    conversions: list[NetworkOutcomes] = field(default_factory=list)

    def called(self, norm: str) -> str:
        """What the report calls a norm or an arm: the name chosen for it, or its own."""
        return self.names.get(norm, norm)

    @property
    def metric(self) -> Metric:
        """What the study compares."""
        return primary_metric(self.manifest)

    def metric_of(self, record: Record) -> Metric:
        """The same, or of a study of conversions what the run reports: networks of several tasks
        stand there."""
        return metrics_of(record.env)[0] if self.of_conversions else self.metric

    @property
    def further(self) -> tuple[Metric, ...]:
        """What it shows beside that."""
        return further_metrics(self.manifest)

    @property
    def training(self) -> Metric | None:
        """The same metric of the training examples; None where the runs do not measure it."""
        return training_metric(self.metric, self.records)

    @property
    def axis(self) -> str:
        """The label by which the report calls a configuration: its norm, arm or network."""
        axes = {"arms": "arm", "fine-tuning": "arm", "conversions": "network"}
        return axes.get(self.manifest["shows"], "norm")

    @property
    def of_fine_tuning(self) -> bool:
        """Whether arms are compared by images per worker and by step."""
        return bool(self.manifest["shows"] == "fine-tuning")

    @property
    def of_clips(self) -> bool:
        """Whether norms are compared by clips per worker and by the length of the clips."""
        return bool(self.manifest["shows"] == "clips")

    @property
    def of_conversions(self) -> bool:
        """Whether conversions of the runs' networks are compared."""
        return bool(self.manifest["shows"] == "conversions")

    @property
    def trained(self) -> bool:
        """Whether its runs were trained; a user's own network comes as it is."""
        return bool(self.manifest["protocol"] != NO_TRAINING)

    @property
    def example(self) -> str:
        """What batches are made of: an "image", or a "clip" of a video."""
        return "clip" if self.of_clips else "image"

    def label(self, labels: Mapping[str, Any]) -> str:
        """What the report calls the norm or the arm with these labels."""
        return self.called(labels[self.axis])

    @property
    def rules(self) -> list[int]:
        """The numbers of last epochs that the runs ask for the median over; one number as a rule.

        Runs that have no configuration yet do not count.
        """
        configs = [record.config for record in self.records.values() if record.config]
        return sorted({config.get("reported_epochs", LAST_EPOCHS) for config in configs})

    @property
    def begun(self) -> bool:
        """Whether any run was begun: before, there is no saying what its results will be."""
        return any(record.config or record.metrics for record in self.records.values())

    @property
    def reported_epochs(self) -> int:
        """How many last epochs the reported value is the median of, the same for every run.

        Of several rules the one with the fewest epochs: every run was evaluated after these.
        """
        return min(self.rules, default=LAST_EPOCHS)


def final_result(
    metrics: Sequence[dict[str, Any]], metric: Metric, name: str | None = None, *, last: int
) -> float | None:
    """Median over the last evaluated epochs (Wu & He 2018, section 4.1, have five).

    Args:
        metrics: the rows of a run, oldest first. Those without a value of `metric` are no epochs
            here.
        name: the column, `metric`'s own by default; rows where it is absent, null or not finite are
            left out.
        last: number of epochs, as `Study.reported_epochs`. Fewer rows: all of them count.

    Returns:
        The median in the column's own unit, or None when no row has a value.
    """
    name = name or metric.name
    evaluated = [row for row in metrics if row.get(metric.name) is not None]
    values = [row[name] for row in evaluated[-last:] if is_number(row.get(name))]
    return float(median(values)) if values else None


def load_study(out: Path) -> Study:
    """Read the manifest in `out` and every run it names.

    Raises:
        StoreError: `out` holds no study, or a file of it is damaged.
    """
    manifest = read_manifest(out)
    cells = read_cells(manifest)
    names = dict.fromkeys(cell.run for cell in cells)
    records = {name: read_record(out, name) for name in names}
    if manifest["shows"] != "conversions":
        check_metrics(out, manifest, records)
    search = None
    if manifest["shows"] == "search":
        search = read_search(manifest, cells, records, read_initial(out))
        epochs = {cell.run: search.epochs_asked(cell.labels["norm"]) for cell in cells}
        records = {name: as_asked(record, epochs[name]) for name, record in records.items()}
    return Study(
        manifest, cells, records, read_cost_pass(out), search=search,
        initial=read_starts(out, records),
        conversions=read_conversions(out, manifest, cells, records),
    )  # fmt: skip


def summarize(out: Path) -> list[Row]:
    """One row per distinct labels of the study in `out`, in the manifest's order.

    Raises:
        StoreError: `out` holds no study, or a file of it is damaged.
    """
    return summarize_study(load_study(out))


def summarize_study(study: Study) -> list[Row]:
    """One row per distinct labels of a study that has been read."""
    groups: dict[str, list[Cell]] = {}
    for cell in study.cells:
        groups.setdefault(json.dumps(cell.labels, sort_keys=True), []).append(cell)
    return [_row(study, cells) for cells in groups.values()]


def by_runs(rows: Iterable[Row]) -> list[list[Row]]:
    """The rows that the same runs fill, together, in the order of the first of each.

    A norm that does not look across the batch is trained once for several batch sizes.
    """
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(row.runs, []).append(row)
    return list(groups.values())


def trained_once(rows: Iterable[Row]) -> set[str]:
    """The norms that the same runs stand for at every batch size of several."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.labels["norm"], []).append(row)
    return {norm for norm, mine in groups.items() if len(mine) > 1 and len(by_runs(mine)) == 1}


def batch_sizes(rows: Sequence[Row]) -> list[int]:
    """Every batch per worker of a study, the largest first as in the paper; none of arms alone."""
    sizes = {row.labels["batch_per_worker"] for row in rows if "batch_per_worker" in row.labels}
    return sorted(sizes, reverse=True)


def norm_names(rows: Sequence[Row]) -> list[str]:
    """Every norm of a study in the manifest's order."""
    return list(dict.fromkeys(row.labels["norm"] for row in rows))


def seeds_text(rows: Sequence[Row]) -> str:
    """How many seeds were asked for of a row, e.g. "3 seeds", or "1 to 2 seeds"."""
    asked = sorted({row.asked for row in rows}) or [0]
    least = f"{asked[0]} to " if asked[0] < asked[-1] else ""
    return f"{least}{counted(asked[-1], 'seed')}"


def subject(study: Study) -> str:
    """What was trained on what, e.g. "resnet8 on digits"."""
    models, data = trained(study)
    return f"{', '.join(models) or 'a model'} on {data}"


def trained(study: Study) -> tuple[list[str], str]:
    """The models a study trained, sorted, and the name of its data set ("?" when unknown)."""
    models = {r.config["model"] for r in study.records.values() if "model" in r.config}
    model = study.manifest.get("options", {}).get("model")
    return sorted(models) or ([model] if model else []), study.manifest.get("data", {}).get(
        "name", "?"
    )


def run_status(record: Record, metric: Metric) -> tuple[str, str | None]:
    """Status and reason of one run; a finished run without a value of `metric` counts as failed."""
    if record.status == "finished" and final_result(record.metrics, metric, last=1) is None:
        return "failed", f"it finished without {with_article(f'validation {noun(metric)}')}"
    if record.status == "partial":
        epochs = record.config.get("epochs")
        return "partial", f"{len(record.metrics)} of {epochs or '?'} epochs done"
    return record.status, record.reason


def images_of(records: Iterable[Record]) -> str | None:
    """The images that runs were evaluated on: "test images", or "500 validation images".

    Of a task that is evaluated on videos these have their place. Where runs differ, all of them,
    joined by "and". None where no run was begun.
    """
    found: dict[str, None] = {}
    for record in records:
        if record.config or record.metrics:
            count = record.config.get("validation_images")
            what = config_class(record.config).evaluated_on
            found[f"{count:,} validation {what}" if count else f"test {what}"] = None
    return " and ".join(sorted(found)) or None


def are_test(images: str | None) -> bool:
    """Whether what `images_of` says are all of the test, or not known yet."""
    return images is None or "validation" not in images


def step_memory_bytes(record: Record) -> int | None:
    """The largest memory of a training step of any epoch of a run."""
    values = _timing(record, "step_memory_bytes")
    return int(max(values)) if values else None


def _row(study: Study, cells: list[Cell]) -> Row:
    records, last = study.records, study.reported_epochs
    metric = study.metric_of(records[cells[0].run])
    statuses = [run_status(records[cell.run], metric) for cell in cells]
    done = {
        cell.seed: records[cell.run]
        for cell, (status, _) in zip(cells, statuses, strict=True)
        if status == "finished"
    }
    status, reason = _worst(statuses)
    parameters = [records[cell.run].env.get("parameters") for cell in cells]
    memory = _present(step_memory_bytes, done.values())
    times = study.cost_pass.times

    def by_seed(name: str) -> dict[int, float]:
        found = {seed: final_result(r.metrics, metric, name, last=last) for seed, r in done.items()}
        return {seed: value for seed, value in found.items() if value is not None}

    def on_parts(name: str) -> dict[int, ByPart]:
        found = {s: part_results(r.metrics, metric, name, last=last) for s, r in done.items()}
        return {seed: values for seed, values in found.items() if values}

    return Row(
        labels=cells[0].labels,
        runs=tuple(cell.run for cell in cells),
        finished=len(done),
        asked=len(cells),
        status=status,
        reason=reason,
        results=by_seed(study.metric.name),
        precise_results=by_seed(study.metric.precise),
        train_result=_mean(by_seed(study.training.name).values()) if study.training else None,
        step_memory_bytes=int(max(memory)) if memory else None,
        parameters=next((count for count in parameters if count is not None), None),
        cost=mean_cost([run_cost(record, times.get(record.name)) for record in done.values()]),
        evaluated_on=images_of(records[cell.run] for cell in cells),
        further={
            name: by_seed(name) for other in study.further for name in (other.name, other.precise)
        },
        parts={m.name: found for m in (metric, *study.further) if (found := on_parts(m.name))},
    )


def _worst(statuses: list[tuple[str, str | None]]) -> tuple[str, str | None]:
    parts = []
    for name in reversed(STATUSES[1:]):
        reasons = [reason for status, reason in statuses if status == name]
        if not reasons:
            continue
        count = f"{len(reasons)} of {len(statuses)} seeds " if len(statuses) > 1 else ""
        why = "; ".join(dict.fromkeys(reason for reason in reasons if reason))
        parts.append(f"{count}{name}" + (f": {why}" if why else ""))
    worst = max((status for status, _ in statuses), key=STATUSES.index)
    return worst, "; ".join(parts) or None


def _present(value: Callable[[Record], float | None], records: Iterable[Record]) -> list[float]:
    return [found for record in records if (found := value(record)) is not None]


def _mean(values: Collection[float]) -> float | None:
    return fmean(values) if values else None


def _timing(record: Record, key: str) -> list[float]:
    timings = (row.get("timing", {}) for row in record.metrics)
    return [timing[key] for timing in timings if is_number(timing.get(key))]
