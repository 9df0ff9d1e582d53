"""Experiment: a published comparison as a value, the runs that repeat it and where it stands."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from groupnorm.training.config import RunConfig

Scale = Literal["full", "smoke"]
Shows = Literal["batch-size", "norms", "groups"]


@dataclass(frozen=True)
class Variant:
    """One cell of a table: what is varied, in the words of the table, and the run."""

    labels: dict[str, Any]
    config: RunConfig


@dataclass(frozen=True)
class Experiment:
    """A published comparison.

    Attributes:
        name: as on the command line.
        title: one line.
        source: paper, and the table, figure or section.
        result: what was published, in a few words.
        time: what a full run takes, and where that number comes from.
        shows: what its report shows: error by batch size, by norm, or by group division.
        variants: its cells.
        published: ids of the published tables to put beside what is measured.
        seeds: repetitions of every cell.
        tuned_over: the label whose best value stands for a cell; None when nothing is tuned.
    """

    name: str
    title: str
    source: str
    result: str
    time: str
    shows: Shows
    variants: tuple[Variant, ...]
    published: tuple[str, ...]
    seeds: int = 1
    tuned_over: str | None = None


Recipe = Callable[[Scale], Experiment]

SMOKE_STEPS = 2
SMOKE_IMAGES = 32
SMOKE_WORKERS = 2
SMOKE_SIZE = 64  # pixels: two by two positions are left at the end of an ImageNet network


def smoke(config: RunConfig, batch_per_worker: int, data: str) -> RunConfig:
    """The same network, norm and optimizer for two steps of a few images."""
    return changed(
        config,
        data=data,
        image_size=SMOKE_SIZE if config.image_size else None,
        train_images=SMOKE_IMAGES,
        epochs=None,
        steps=SMOKE_STEPS,
        warmup_epochs=0.0,
        workers=min(config.workers, SMOKE_WORKERS),
        batch_per_worker=batch_per_worker,
    )


def changed(config: RunConfig, **changes: Any) -> RunConfig:
    """`config` with some fields replaced, checked as if it had been written that way."""
    return RunConfig(**{**config.model_dump(), **changes})


def by_norm_and_size(
    base: RunConfig, norms: Iterable[str], sizes: Iterable[int]
) -> tuple[Variant, ...]:
    """A cell for every norm and every number of images per worker."""
    return tuple(
        Variant(
            {"norm": norm, "batch_per_worker": size},
            changed(base, norm=norm, batch_per_worker=size),
        )
        for norm in norms
        for size in sizes
    )


def by_division(base: RunConfig, values: tuple[int, ...]) -> tuple[Variant, ...]:
    """A cell for every number of groups, and for every number of channels per group."""
    return tuple(
        Variant(
            {
                "norm": f"gn:{division}={value}",
                "division": division,
                "value": value,
                "batch_per_worker": base.batch_per_worker,
            },
            changed(base, norm=f"gn:{division}={value}"),
        )
        for division in ("groups", "size")
        for value in values
    )
