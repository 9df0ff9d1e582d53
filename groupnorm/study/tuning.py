"""The stages of a tuned study: try every value on validation images, then train with the best."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from groupnorm.study.plan import Plan, Stage, repeat, vary
from groupnorm.study.results.rows import Study
from groupnorm.study.results.tuning import read_tuning
from groupnorm.study.store import Cell, read_manifest, read_record, run_is_done
from groupnorm.study.validation import validation_count, with_validation
from groupnorm.training.config import TrainingConfig

TUNABLE = ("base_lr", "weight_decay", "warmup_epochs", "momentum")

Labelled = tuple[tuple[dict[str, Any], TrainingConfig], ...]


@dataclass(frozen=True)
class Tune:
    """A field of the runs, and the values that are tried for every configuration alike.

    Raises:
        ValueError: a field that is not among `TUNABLE`, fewer than two values, or one given twice.
    """

    field: str
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.field not in TUNABLE:
            raise ValueError(
                f"{' or '.join(TUNABLE)} can be tuned, {self.field!r} cannot; a norm, a batch size "
                "or a length is compared, not tuned"
            )
        if len(self.values) < 2:
            raise ValueError(f"give two values of {self.field} at least, as {self.field}=0.1,0.2")
        twice = sorted({value for value in self.values if self.values.count(value) > 1})
        if twice:
            raise ValueError(f"{', '.join(map(str, twice))} given twice")

    def __str__(self) -> str:
        return f"{self.field}={','.join(map(str, self.values))}"


def tuned_plan(
    plan: Plan, labelled: Labelled, seeds: Sequence[int], tune: Tune, validation_images: int | None
) -> Plan:
    """`plan` in two stages: the values of `tune` are tried, then the best one of each is trained.

    The first stage trains every configuration with every value and the first seed, without some of
    the training images, and evaluates on these. The second trains each configuration with the value
    of the lowest error, on all images and with every seed, and evaluates on the test images.

    Args:
        labelled: the configurations to compare, with their labels.
        seeds: of the second stage; the first one is that of the first stage.
        validation_images: how many; None for the usual share of the training images
            (`validation_count`).

    Raises:
        PlanError: a value that the field cannot have.
    """
    stages = _Stages(labelled, seeds, tune, validation_images)
    for _, config in labelled:
        for value in tune.values:
            vary(config, **{tune.field: value})
    return replace(
        plan,
        cells=[],
        configs=dict(repeat(labelled, seeds[:1])[1]),
        tuned_over=tune.field,
        tuning=stages.described,
        next_stage=stages.next_stage,
        final_cells=lambda out: stages.chosen(out)[0],
    )


@dataclass(frozen=True)
class _Stages:
    labelled: Labelled
    seeds: Sequence[int]
    tune: Tune
    validation_images: int | None

    def described(self, data: dict[str, Any]) -> dict[str, Any]:
        """What `study.json` says of the tuning; `data` is what it says of the data."""
        cells, _ = self.tried(data)
        return {"validation_images": self.images(data), "cells": [vars(cell) for cell in cells]}

    def images(self, data: dict[str, Any]) -> int:
        """How many validation images there are.

        Raises:
            PlanError: as many as there are, or more.
        """
        configs = [config for _, config in self.labelled]
        return validation_count(data, configs, self.validation_images)

    def tried(self, data: dict[str, Any]) -> tuple[list[Cell], dict[str, TrainingConfig]]:
        """The cells and runs of the first stage.

        Raises:
            PlanError: as many images are held out as there are, or more.
        """
        field, images = self.tune.field, self.images(data)
        labelled = []
        for labels, config in self.labelled:
            held = vary(config, **with_validation(config, data, images))
            labelled += [
                ({**labels, field: value}, vary(held, **{field: value}))
                for value in self.tune.values
            ]
        return repeat(labelled, self.seeds[:1])

    def next_stage(self, out: Path) -> Stage | None:
        """The stage that is not done yet."""
        _, tried = self.tried(read_manifest(out)["data"])
        if not _done(out, tried):
            return Stage(tried, about=f"trying values of {self.tune.field}")
        cells, configs = self.chosen(out)
        if not _done(out, configs):
            return Stage(configs, cells=cells, about=f"with the {self.tune.field} chosen")
        return None

    def chosen(self, out: Path) -> tuple[list[Cell], dict[str, TrainingConfig]]:
        """The cells and runs of the second stage, of the configurations with a chosen value."""
        tuning = read_tuning(out, Study(read_manifest(out), [], {}))
        assert tuning is not None
        field, configs = self.tune.field, {_key(k): config for k, config in self.labelled}
        return repeat(
            [
                (row.labels, vary(configs[_key(row.labels, field)], **{field: row.labels[field]}))
                for row in tuning.chosen
            ],
            self.seeds,
        )


def _key(labels: dict[str, Any], without: str | None = None) -> str:
    return json.dumps({k: v for k, v in labels.items() if k != without}, sort_keys=True)


def _done(out: Path, configs: Mapping[str, TrainingConfig]) -> bool:
    return all(run_is_done(read_record(out, name)) for name in configs)
