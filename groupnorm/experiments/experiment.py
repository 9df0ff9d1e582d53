"""Experiment: a comparison as a value, the runs that make it and what its report shows."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from groupnorm.spec import NormSpec
from groupnorm.study.conversions.trial import NetworkTrials
from groupnorm.study.plan import Config, Finding, ReportKind, vary
from groupnorm.study.tuning import Tune
from groupnorm.training.config import TrainingConfig, VideoConfig
from groupnorm.training.metric import CLASSIFICATION, Metric

GROUP_GRID = (64, 32, 16, 8, 4, 2, 1)
"""Numbers of groups, and of channels per group, of the paper's Table 3."""


@dataclass(frozen=True)
class Variant:
    """A configuration of an experiment, and the labels that its fields do not hold.

    Attributes:
        seeds: repetitions; None: the experiment's.
    """

    config: TrainingConfig
    labels: dict[str, Any] = field(default_factory=dict)
    seeds: int | None = None


@dataclass(frozen=True)
class Experiment:
    """A comparison of runs.

    Attributes:
        title: one line.
        source: paper, and the table, figure or section.
        shows: what its report shows: results by batch size, by norm, by group division, by arm, by
            length of the clips, of fine-tuning by step, or of conversions.
        variants: its cells before they are repeated. Of a comparison of arms they have a label
            `arm`, and the labels that they name alone.
        published: ids of the published tables to compare with.
        result: what was published, in a few words; None: nothing of this very comparison.
        time: what a full run takes, and where that number comes from.
        result_metric: what `result` states.
        metric: what is compared.
        also: metrics that the report shows beside it.
        findings: what was published of two of its variants, to say whether it appears.
        initial: runs whose last weights variants start from (`TrainingConfig.init`).
        protocol: how batch size, step and learning rate belong together.
        seeds: repetitions of every cell.
        tune: the field that is tuned for each cell, and its values; None when nothing is tuned.
        validation_images: held out for that, unless the user gives a number; None: the usual share
            of those trained on (`validation_count`).
        skipped: what cannot be run, and why.
        conversions: by the label `network` of variants, the trials that are done with their runs.
    """

    title: str
    source: str
    shows: ReportKind
    variants: tuple[Variant, ...]
    published: tuple[str, ...]
    result: str | None = None
    time: str = ""
    result_metric: str = "error in %"
    metric: Metric = CLASSIFICATION[0]
    also: tuple[Metric, ...] = ()
    findings: tuple[Finding, ...] = ()
    initial: tuple[TrainingConfig, ...] = ()
    protocol: str = "paper"
    seeds: int = 1
    tune: Tune | None = None
    validation_images: int | None = None
    skipped: tuple[tuple[Variant, str], ...] = ()
    conversions: Mapping[str, NetworkTrials] = field(default_factory=dict)

    def labels(self, variant: Variant) -> dict[str, Any]:
        """The labels of a variant's cells: norm, batch size, and what else is varied."""
        if self.shows in ("arms", "fine-tuning", "conversions"):
            return variant.labels
        config = variant.config
        labels = {
            "norm": config.norm_text,
            **variant.labels,
            "batch_per_worker": config.batch_per_worker,
        }
        if isinstance(config, VideoConfig):
            labels |= {"frames": config.frames, "stride": config.stride}
        return labels

    @property
    def runs(self) -> int:
        """How many runs it takes, where no two of its cells have the same."""
        tried = 0 if self.tune is None else len(self.tune.values)
        repeated = sum(variant.seeds or self.seeds for variant in self.variants)
        return len(self.initial) + repeated + len(self.variants) * tried


Axis = Iterable[dict[str, Any]]
"""The changes of a configuration that one after the other are made."""


def axis(name: str, values: Iterable[Any]) -> Axis:
    """One field that takes several values."""
    return [{name: value} for value in values]


def norm_axis(norms: Iterable[str | NormSpec]) -> Axis:
    """The norms, each read once for all cells."""
    return axis("norm", [n if isinstance(n, NormSpec) else NormSpec.parse(n) for n in norms])


def cross(base: TrainingConfig, *axes: Axis) -> tuple[Variant, ...]:
    """A variant for every combination of the axes; the first one varies slowest."""
    return tuple(
        Variant(vary(base, **{key: value for change in changes for key, value in change.items()}))
        for changes in itertools.product(*axes)
    )


def by_norm_and_size(
    base: TrainingConfig, norms: Iterable[str], sizes: Iterable[int]
) -> tuple[Variant, ...]:
    """A variant for every norm and every number of images per worker."""
    return cross(base, norm_axis(norms), axis("batch_per_worker", sizes))


def by_division(base: TrainingConfig, values: Iterable[int]) -> tuple[Variant, ...]:
    """A variant for every number of groups, and for every number of channels per group."""
    values = tuple(values)
    norms = [("groups", value, NormSpec("gn", groups=value)) for value in values]
    norms += [("size", value, NormSpec("gn", size=value)) for value in values]
    return tuple(
        Variant(vary(base, norm=norm), {"division": division, "value": value})
        for division, value, norm in norms
    )


SMOKE_STEPS = 2
SMOKE_IMAGES = 32
SMOKE_WORKERS = 2
SMOKE_SIZE = 64  # pixels: two by two positions are left at the end of an ImageNet network
_SIZES = ("image_size", "short_side")


def smoke(config: Config, batch_per_worker: int, data: str) -> Config:
    """The same network, norm and optimizer for two steps of a few images.

    Where images have a size that the configuration names, they are small.
    """
    named = [name for name in _SIZES if getattr(config, name, None) is not None]
    return vary(
        config,
        **dict.fromkeys(named, SMOKE_SIZE),
        data=data,
        train_images=SMOKE_IMAGES,
        epochs=None,
        steps=SMOKE_STEPS,
        warmup_epochs=0.0,
        workers=min(config.workers, SMOKE_WORKERS),
        batch_per_worker=batch_per_worker,
    )
