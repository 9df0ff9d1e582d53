"""A study plan: its cells and the distinct runs that fill them. Nothing is trained here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from groupnorm.data import DataError
from groupnorm.run.tasks import check
from groupnorm.study.conversions.trial import NetworkTrials
from groupnorm.study.results.findings import Finding as Finding
from groupnorm.study.schema import ReportKind as ReportKind
from groupnorm.study.store import Cell
from groupnorm.training.config import TrainingConfig, describe_errors
from groupnorm.training.metric import CLASSIFICATION, Metric

Config = TypeVar("Config", bound=TrainingConfig)


class PlanError(ValueError):
    """Options that make no study; the message says what to change."""


@dataclass(frozen=True)
class Stage:
    """Runs by name that are trained at the same time.

    With `stop_epoch` each stops after that epoch of its own schedule. A later stage that holds the
    same run goes on from there.

    Attributes:
        cells: those of the tables, where they are known when this stage begins.
        about: what the stage is, in a few words.
        metric: what its progress tells of; None: what the plan compares.
    """

    configs: Mapping[str, TrainingConfig]
    stop_epoch: int | None = None
    cells: list[Cell] | None = None
    about: str = ""
    metric: Metric | None = None


@dataclass(frozen=True)
class Plan:
    """Cells in the order of the tables, and one configuration for every distinct run.

    A study whose later runs depend on the results of earlier ones goes by stages. They are computed
    from the study's folder alone, so that a study that was stopped goes on as if it had not been.

    Attributes:
        study: name of the comparison.
        protocol: how batch size, step and learning rate belong together, "fixed-step" or "paper".
        scale: how large a version of the comparison this is, as "quick".
        options: what the user chose, as plain values, for the record.
        initial: runs by name whose last weights others start from (`TrainingConfig.init`). They
            are trained before all others, each once, and fill no cell.
        shows: the kind of report: "batch-size", "norms", "groups", "search", "arms", "clips",
            "fine-tuning" or "conversions".
        published: ids of the published tables to compare with, the main figure's first.
        skipped: what could not be run, {"labels", "reason"} each.
        tuned_over: the label, as "base_lr", whose best value is shown for each configuration; every
            cell then has it. None: nothing was tuned.
        tuning: from what `study.json` says of the data to what it says of the values tried.
        untimed: why the training steps are not timed; None: they are.
        next_stage: from the study's folder to the first stage that is not done yet (`run_is_done`
            of each of its runs), None when there is none. Without it the study has one stage, its
            `configs`; with it they say which data the runs will have.
        search: as `tuning`, of what a search has to choose from and how.
        prepare: from the study's folder and that of the data to a line that says what was done
            there before the first stage.
        final_cells: from the study's folder to the cells that replace `cells` after the last stage.
        metric: what is compared. The runs measure it, among others.
        also: what the report of arms or of clips shows beside it, a column each, as do the table of
            every run and the numbers for programs.
        findings: what was published of two rows of its table, to say whether it appears.
        conversions: by the label `network` of cells, the trials that are done with their runs.
    """

    study: str
    title: str
    protocol: str
    scale: str
    options: dict[str, Any]
    cells: list[Cell]
    configs: Mapping[str, TrainingConfig]
    shows: ReportKind
    published: tuple[str, ...]
    initial: Mapping[str, TrainingConfig] = field(default_factory=dict)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    tuned_over: str | None = None
    tuning: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    search: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    untimed: str | None = None
    prepare: Callable[[Path, Path | None], str] | None = None
    next_stage: Callable[[Path], Stage | None] | None = None
    final_cells: Callable[[Path], list[Cell]] | None = None
    metric: Metric = CLASSIFICATION[0]
    also: tuple[Metric, ...] = ()
    findings: tuple[Finding, ...] = ()
    conversions: Mapping[str, NetworkTrials] = field(default_factory=dict)

    @property
    def data_sets(self) -> tuple[str, ...]:
        """The data sets of all runs but the initial ones: one, but where networks are converted."""
        return tuple(dict.fromkeys(config.data for config in self.configs.values()))

    @property
    def data(self) -> str:
        """The same in words."""
        return ", ".join(self.data_sets)


def vary(config: Config, **changes: Any) -> Config:
    """`config` with some fields replaced, checked as if it had been written that way.

    Raises:
        PlanError: the result is no configuration, or does not pass `check`.
    """
    try:
        varied = type(config)(**{**dict(config), **changes})
        check(varied)
    except ValidationError as error:
        raise PlanError(describe_errors(error, type(config))) from None
    except (ValueError, DataError) as error:
        raise PlanError(str(error)) from None
    return varied


def repeat(
    labelled: Iterable[tuple[dict[str, Any], Config]], seeds: int | Sequence[int]
) -> tuple[list[Cell], dict[str, Config]]:
    """A cell for each seed of every labelled configuration, and the runs.

    Runs of equal hash are one run.

    Args:
        seeds: the seeds, or n for 0 ... n - 1.
    """
    seeds = range(seeds) if isinstance(seeds, int) else seeds
    cells: list[Cell] = []
    configs: dict[str, Config] = {}
    for labels, config in labelled:
        for seed in seeds:
            seeded = vary(config, seed=seed)
            name = seeded.run_name()
            configs.setdefault(name, seeded)
            cells.append(Cell(labels, seed, name))
    return cells, configs
