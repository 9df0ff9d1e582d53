"""What trials of conversions gave: each over the seeds of its network, and what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from groupnorm.study.conversions.records import read_trial, trial_path
from groupnorm.study.conversions.trial import FITTED, UNCONVERTED, NetworkTrials, Trial
from groupnorm.study.results.estimates import Difference, Estimate, estimate, paired_difference
from groupnorm.study.store import Cell, Record, StoreError, run_folder
from groupnorm.training.metric import CLASSIFICATION, Metric, metrics_of

ONE_CHANNEL = "gn:size=1"
UP_TO_32 = "gn:groups=32"
RATE_STEPS = 100
"""Of the fine-tuning by which the rate of a start is chosen; where there is none of this length, of
the longest."""
_NAMES = {ONE_CHANNEL: "one-channel", UP_TO_32: "up to 32", FITTED: "fitted"}


@dataclass(frozen=True)
class Outcome:
    """A trial of a network, over its seeds; only those that have its result enter a number.

    Attributes:
        network: the label of the runs.
        trial: what was done with them.
        seeds: those asked for.
        scores: by seed, percent of the test examples that are right, or what else is the higher
            the better (`score`).
        kept: by seed, the same as a share of the teacher's, in percent.
        held_out: by seed, the score on the training examples held out, of fine-tuned networks.
        agreement: by seed, percent of the test examples that get the teacher's class.
        results: by seed, all that is recorded.
        failures: by seed, why there is no result.
    """

    network: str
    trial: Trial
    seeds: tuple[int, ...]
    scores: dict[int, float]
    kept: dict[int, float]
    held_out: dict[int, float]
    agreement: dict[int, float]
    results: dict[int, dict[str, Any]]
    failures: dict[int, str]

    @property
    def asked(self) -> int:
        """Number of seeds asked for."""
        return len(self.seeds)

    @property
    def share(self) -> Estimate | None:
        """Percent of the teacher's score that is kept."""
        return estimate(self.kept.values())

    @property
    def score(self) -> Estimate | None:
        """The score in percent."""
        return estimate(self.scores.values())


@dataclass(frozen=True)
class NetworkOutcomes:
    """Every trial of a network.

    Attributes:
        name: the label of its runs.
        score_name: what the score is, as "accuracy".
        outcomes: by trial, in the study's order.
        aims: as `NetworkTrials.aims`.
    """

    name: str
    score_name: str
    outcomes: dict[Trial, Outcome]
    aims: Mapping[str, float]

    @property
    def teacher(self) -> Outcome:
        """The network as it was trained."""
        return self.outcomes[Trial("teacher")]

    @property
    def grid(self) -> list[Outcome]:
        """The conversions by method and number of groups, with the usual number of images."""
        images = self.images
        return [
            one
            for trial, one in self.outcomes.items()
            if trial.to and not trial.steps and "," not in trial.method
            and trial.images in (0, images)
        ]  # fmt: skip

    @property
    def images(self) -> int:
        """The usual number of calibration images: that of the first trial which has any."""
        return next((trial.images for trial in self.outcomes if trial.images), 0)

    def found(self, method: str, to: str) -> Outcome | None:
        """The conversion by a method to a norm, as in `grid`."""
        return next((o for o in self.grid if (o.trial.method, o.trial.to) == (method, to)), None)

    def without_parts(self, to: str) -> list[Outcome]:
        """The fits with a part taken away, at the groups of `to`."""
        return [o for t, o in self.outcomes.items() if t.to == to and t.method.startswith("fit, ")]

    def by_images(self, to: str) -> list[Outcome]:
        """The fits at the groups of `to` by the number of calibration images, the fewest first."""
        mine = [
            one
            for trial, one in self.outcomes.items()
            if trial.method == "fit" and trial.to == to and not trial.steps
        ]
        return sorted(mine, key=lambda one: one.trial.images)

    def before(self, start: Trial) -> Outcome | None:
        """Where a fine-tuning begins; None for a network with fresh weights.

        Batch norms, frozen or not, compute at first what the teacher does.
        """
        return self.teacher if start.method in UNCONVERTED else self.outcomes.get(start.converted)

    def fine_tuned(self) -> dict[Trial, list[Outcome]]:
        """By start (a trial without a length, with target and chosen rate) the fine-tunings.

        The rate of a start is the one with the best mean score on the images held out after
        `RATE_STEPS` steps. Lengths rise.
        """
        starts: dict[tuple[Trial, str], list[Outcome]] = {}
        for trial, one in self.outcomes.items():
            if trial.steps:
                starts.setdefault((trial.converted, trial.target), []).append(one)
        return {mine[0].trial: mine for all_ in starts.values() if (mine := _at_best_rate(all_))}


def read_conversions(
    out: Path, manifest: Mapping[str, Any], cells: Sequence[Cell], records: Mapping[str, Record]
) -> list[NetworkOutcomes]:
    """What the trials of a study gave, by network.

    Raises:
        StoreError: a file of a trial is damaged, or `study.json` asks for what is no trial.
    """
    found = []
    for name, values in (manifest.get("conversions") or {}).items():
        try:
            asked = NetworkTrials.from_json(values)
        except ValueError as error:
            raise StoreError(f"{out / 'study.json'} has a trial that is none: {error}") from None
        runs = {cell.seed: cell.run for cell in cells if cell.labels["network"] == name}
        metric = next(
            (metrics_of(records[run].env)[0] for run in runs.values() if records[run].env),
            CLASSIFICATION[0],
        )
        recorded = {
            trial: {seed: read_trial(run_folder(out, run), trial) for seed, run in runs.items()}
            for trial in asked.trials
        }
        whole = {
            seed: score(metric, one["result"]["value"])
            for seed, one in recorded.get(Trial("teacher"), {}).items()
            if one is not None and one["result"] is not None
        }
        outcomes = {
            trial: _outcome(name, trial, metric, by_seed, whole)
            for trial, by_seed in recorded.items()
        }
        found.append(NetworkOutcomes(name, score_name(metric), outcomes, asked.aims))
    return found


def trial_files(out: Path, manifest: Mapping[str, Any]) -> list[Path]:
    """The files of the trials that a study shows, as far as they are there."""
    asked = manifest.get("conversions") or {}
    paths = [
        trial_path(run_folder(out, cell["run"]), trial)
        for cell in manifest["cells"]
        if cell["labels"].get("network") in asked
        for trial in NetworkTrials.from_json(asked[cell["labels"]["network"]]).trials
    ]
    return [path for path in paths if path.exists()]


def score(metric: Metric, value: float) -> float:
    """A value in percent of which more is better: of an error in percent what it leaves of 100."""
    return value if metric.better == "higher" else 100.0 - value


def score_name(metric: Metric) -> str:
    """What `score` is called."""
    return metric.title if metric.better == "higher" else "accuracy"


def groups_name(to: str) -> str:
    """The groups of a norm asked for, as a heading: "8", "one-channel", "fitted"; "" for none."""
    return _NAMES.get(to, to.rpartition("=")[2])


def group_columns(networks: Iterable[NetworkOutcomes]) -> list[str]:
    """The norms asked for in the grids of several networks, fixed numbers of groups first."""
    every = dict.fromkeys(one.trial.to for network in networks for one in network.grid)
    return sorted(every, key=lambda to: (to in _NAMES, list(_NAMES).index(to) if to in _NAMES
                                         else int(groups_name(to))))  # fmt: skip


def against(one: Outcome, other: Outcome) -> Difference | None:
    """How many points of its score a trial has more than another one, over the seeds of both."""
    return paired_difference(one.scores, other.scores)


def mean_share(networks: Iterable[NetworkOutcomes], method: str, to: str) -> Estimate | None:
    """Percent that a conversion keeps on the mean over networks: an estimate over seeds.

    Seeds count that all of the networks have which have the trial at all.
    """
    rows = [one.kept for n in networks if (one := n.found(method, to)) is not None]
    if not rows:
        return None
    seeds = set.intersection(*(set(row) for row in rows))
    return estimate(fmean(row[seed] for row in rows) for seed in sorted(seeds))


def _outcome(
    network: str,
    trial: Trial,
    metric: Metric,
    by_seed: Mapping[int, dict[str, Any] | None],
    whole: Mapping[int, float],
) -> Outcome:
    results = {s: one["result"] for s, one in by_seed.items() if one is not None and one["result"]}
    scores = {seed: score(metric, result["value"]) for seed, result in results.items()}
    return Outcome(
        network,
        trial,
        seeds=tuple(by_seed),
        scores=scores,
        kept={s: 100.0 * value / whole[s] for s, value in scores.items() if whole.get(s)},
        held_out={
            seed: score(metric, result["held_out"])
            for seed, result in results.items()
            if result["held_out"] is not None
        },
        agreement={seed: result["agreement"] for seed, result in results.items()},
        results=results,
        failures={s: one["reason"] for s, one in by_seed.items() if one and one["reason"]},
    )


def _at_best_rate(outcomes: Sequence[Outcome]) -> list[Outcome]:
    lengths = {one.trial.steps for one in outcomes}
    length = RATE_STEPS if RATE_STEPS in lengths else max(lengths)
    tried = [one for one in outcomes if one.trial.steps == length and one.held_out]
    if not tried:
        return []
    best = max(tried, key=lambda one: fmean(one.held_out.values())).trial.rate
    mine = [one for one in outcomes if one.trial.rate == best]
    return sorted(mine, key=lambda one: one.trial.steps)
