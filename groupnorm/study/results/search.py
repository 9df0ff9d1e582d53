"""A search as its records tell it: the rungs, the refinement, what was chosen, and what it took."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from groupnorm.study.metrics import primary_metric
from groupnorm.study.results.halving import (
    WORTH_REFINING,
    Rung,
    Step,
    climb,
    coordinate_steps,
    unusual,
)
from groupnorm.study.results.wording import worst_value
from groupnorm.study.store import Cell, Record, is_number
from groupnorm.training.metric import CLASSIFICATION, Metric

RULES = "rules"
"""The label `step` of cells of global rules; others have the part that their norm differs in."""


@dataclass(frozen=True)
class Search:
    """What a search has found so far.

    Attributes:
        settings: what `study.json` says of it.
        rungs: of the global rules, up to the first one that is not done.
        steps: of the refinement, up to the first one that is not done; empty without one.
        chosen: the norm that is best so far, and at last when the search is `done`; None while the
            last rung is not done, or when everything diverged.
        initial: what `initial.json` holds; None where nothing was measured.
        seeds_left: runs of what is chosen, with other seeds than the first, that are not done.
        metric: what the results of rungs and steps are values of.
    """

    settings: Mapping[str, Any]
    rungs: list[Rung]
    steps: list[Step]
    chosen: str | None
    initial: Mapping[str, Any] | None = None
    seeds_left: int = 0
    metric: Metric = CLASSIFICATION[0]

    @property
    def full_epochs(self) -> int:
        """Length of the schedule that every run has, and none goes through."""
        epochs: int = self.settings["full_epochs"]
        return epochs

    @property
    def discarded(self) -> dict[str, str]:
        """The rules that were not trained, each with the reason."""
        return discarded(self.initial)

    @property
    def refines(self) -> bool:
        """Whether parts of the network are tried: asked for, and the rules differ by enough."""
        return bool(self.settings["refine"]) and self.rungs[0].spread > WORTH_REFINING

    @property
    def rule(self) -> str | None:
        """The best global rule; None while the last rung is not done."""
        full = len(self.rungs) == len(self.settings["rungs"])
        return self.rungs[-1].kept[0] if full and self.rungs[-1].kept else None

    @property
    def refined(self) -> str | None:
        """What a refinement that is done has found better than the best rule; None: nothing."""
        best = self.steps[-1].best if self.steps and self.is_refined else None
        return best if best != self.rule else None

    @property
    def is_refined(self) -> bool:
        """Whether every part that is to be tried has been."""
        done = [step for step in self.steps if step.best is not None]
        return not self.refines or len(done) == len(self.settings["parts"])

    @property
    def done(self) -> bool:
        """Whether there is nothing left to train."""
        chosen = self.rule is not None and self.is_refined and not self.seeds_left
        return chosen or self.everything_diverged

    @property
    def everything_diverged(self) -> bool:
        """Whether no rule is left."""
        last = self.rungs[-1]
        return bool(last.asked) and last.complete and not last.kept

    def epochs_asked(self, norm: str) -> int:
        """The epoch that the runs of a norm were to be trained to."""
        reached = [rung.epochs for rung in self.rungs if norm in rung.asked]
        last: int = self.settings["rungs"][-1]
        return max(reached, default=last)


def find(
    settings: Mapping[str, Any],
    rules: Sequence[str],
    record_of: Callable[[str], Record | None],
    alternatives: Callable[[str, str], Sequence[str] | None],
    metric: Metric,
) -> Search:
    """Read a search from the runs of its first seed.

    Args:
        settings: the key `search` of the manifest.
        rules: the global rules, those that a tie favours first.
        record_of: a norm's run with the first seed; None where none is known.
        alternatives: from a part and the norm so far to the norms that the refinement tries; None
            for a part that has not begun.
        metric: by which the norms are compared.
    """
    last, end = settings["reported_epochs"], settings["rungs"][-1]

    def result(norm: str, epochs: int) -> float | None:
        record = record_of(norm)
        return None if record is None else result_after(record, epochs, last, metric)

    rungs = climb(rules, settings["rungs"], result, metric)
    search = Search(settings, rungs, [], None, metric=metric)
    if search.rule is None:
        return search
    steps = []
    if search.refines:
        steps = coordinate_steps(search.rule, settings["parts"], alternatives, end, result, metric)
    best = [step.best for step in steps if step.best is not None]
    return replace(search, steps=steps, chosen=best[-1] if best else search.rule)


def result_after(record: Record, epochs: int, last: int, metric: Metric) -> float | None:
    """The result of a run after so many epochs: the median over the `last` of them.

    None while it has not come so far; the worst value where it diverged before, or has none there.
    """
    rows = record.metrics[:epochs]
    if len(rows) < epochs:
        return worst_value(metric) if record.status == "diverged" else None
    values = [row[metric.name] for row in rows[-last:] if is_number(row.get(metric.name))]
    return float(median(values)) if len(values) == min(last, epochs) else worst_value(metric)


def read_search(
    manifest: Mapping[str, Any],
    cells: Sequence[Cell],
    records: Mapping[str, Record],
    initial: Mapping[str, Any] | None,
) -> Search:
    """The search of a study, from its cells, their records and what `initial.json` holds."""
    settings, metric = manifest["search"], primary_metric(manifest)
    first, *others = settings["seeds"]
    runs = {(cell.labels["norm"], cell.seed): cell.run for cell in cells}
    steps = {cell.labels["norm"]: cell.labels["step"] for cell in cells}
    found = find(
        settings,
        [norm for norm, step in steps.items() if step == RULES],
        lambda norm: records.get(runs.get((norm, first), "")),
        lambda part, _: [norm for norm, step in steps.items() if step == part] or None,
        metric,
    )
    end, last = settings["rungs"][-1], settings["reported_epochs"]
    best = {norm for norm in (found.rule, found.refined) if norm is not None}
    wanted = [records.get(runs.get((norm, seed), "")) for norm in best for seed in others]
    left = sum(run is None or result_after(run, end, last, metric) is None for run in wanted)
    return replace(found, initial=initial, seeds_left=left)


def as_asked(record: Record, epochs: int) -> Record:
    """A run that was to stop after so many epochs and did counts as finished."""
    if record.status == "partial" and len(record.metrics) >= epochs:
        return Record(**{**vars(record), "status": "finished"})
    return record


def discarded(initial: Mapping[str, Any] | None) -> dict[str, str]:
    """The rules that `initial.json` discards, each with the reason."""
    if initial is None:
        return {}
    return unusual(
        {
            run["norm"]: (run["gain"], math.inf if run["noise"] is None else run["noise"])
            for run in initial["runs"].values()
        }
    )
