"""A plan: the cells of a study and the distinct runs that fill them. Nothing is trained here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from groupnorm import data as datasets
from groupnorm import experiments as recipes
from groupnorm import run
from groupnorm.experiments.experiment import Scale as ExperimentScale
from groupnorm.experiments.small_images import STEP_IMAGES
from groupnorm.spec import NormSpec
from groupnorm.study.store import Cell
from groupnorm.training.config import RunConfig, describe_errors

Scale = Literal["quick", "standard", "paper"]
Protocol = Literal["fixed-step", "paper"]
PAPER_WORKERS = 8
MOST_SEEDS = 1000


class PlanError(ValueError):
    """Options that make no study; the message says what to change."""


class ExperimentOptions(BaseModel):
    """What a user may change about a published comparison; None keeps what was published."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale: ExperimentScale = "full"
    data: str | None = None
    train_images: int | None = None
    image_size: int | None = None
    max_unreadable: float | None = None
    epochs: int | None = None
    seeds: int | None = None


class StudyOptions(BaseModel):
    """What a user may choose; None takes the scale's own value."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale: Scale = "quick"
    data: str = datasets.DEFAULT
    model: str | None = None
    norms: tuple[str, ...] | None = None
    batch_sizes: tuple[int, ...] | None = None
    protocol: Protocol | None = None
    train_images: int | None = None
    image_size: int | None = None
    max_unreadable: float | None = None
    epochs: int | None = None
    seeds: int | None = None


@dataclass(frozen=True)
class Plan:
    """Cells in the order of the tables, and one configuration for every distinct run.

    Attributes:
        skipped: what could not be run, {"labels", "reason"} each.
        shows: the kind of report, "batch-size", "norms" or "groups"; None: what study and cells
            tell (`groupnorm.study.results.report_kind.shows`).
        published: ids of the published tables to put beside, the main figure's first; None: the
            paper's table for what the study shows.
        tuned_over: the label, as "base_lr", whose best value is shown for each configuration; every
            cell then has it. None: nothing was tuned.
    """

    study: str
    title: str
    protocol: str
    options: StudyOptions | ExperimentOptions
    cells: list[Cell]
    configs: dict[str, RunConfig]
    skipped: list[dict[str, Any]] = field(default_factory=list)
    shows: str | None = None
    published: tuple[str, ...] | None = None
    tuned_over: str | None = None

    @property
    def data(self) -> str:
        """The data set of all runs."""
        (name,) = {config.data for config in self.configs.values()}
        return name


def base_recipe(options: StudyOptions) -> RunConfig:
    """The scale's recipe with the user's model, data and epochs.

    Raises:
        PlanError: an unknown data set, model, or a number that is out of range.
    """
    check_options(options)
    config = {"quick": recipes.quick, "standard": recipes.standard, "paper": recipes.paper}[
        options.scale
    ](data=options.data)
    changes: dict[str, Any] = {}
    for name in ("train_images", "image_size", "max_unreadable", "epochs", "model"):
        if getattr(options, name) is not None:
            changes[name] = getattr(options, name)
    return vary(config, **changes)


def check_options(options: StudyOptions | ExperimentOptions) -> None:
    """Raise PlanError for a number that is out of range."""
    for name in ("train_images", "epochs", "seeds"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise PlanError(f"{name} must be at least 1, got {value}")
    if options.seeds is not None and options.seeds > MOST_SEEDS:
        raise PlanError(f"seeds must be at most {MOST_SEEDS}, got {options.seeds}")


def vary(config: RunConfig, **changes: Any) -> RunConfig:
    """`config` with some fields replaced, checked as if it had been written that way.

    Raises:
        PlanError: the result is no configuration, or what `run.check` refuses.
    """
    try:
        varied = RunConfig(**{**config.model_dump(), **changes})
        run.check(varied)
    except ValidationError as error:
        raise PlanError(describe_errors(error, RunConfig)) from None
    except (ValueError, datasets.DataError) as error:
        raise PlanError(str(error)) from None
    return varied


def with_batch(batch_per_worker: int, protocol: str) -> dict[str, int]:
    """The fields `workers` and `batch_per_worker` of a batch size under a protocol.

    `paper`: 8 workers, so a step sees 8 N images and the learning rate follows N. `fixed-step`: a
    step sees the same images whatever N is, split into chunks of N.

    Raises:
        PlanError: N does not divide the step's images.
    """
    if batch_per_worker < 1:
        raise PlanError(f"a batch size must be at least 1, got {batch_per_worker}")
    if protocol == "paper":
        return {"workers": PAPER_WORKERS, "batch_per_worker": batch_per_worker}
    if STEP_IMAGES % batch_per_worker:
        raise PlanError(
            f"under the fixed-step protocol a batch size must divide the {STEP_IMAGES} images of "
            f"a step, {batch_per_worker} does not; choose from 64, 32, 16, 8, 4, 2 or use "
            "--protocol paper"
        )
    return {"workers": STEP_IMAGES // batch_per_worker, "batch_per_worker": batch_per_worker}


def canonical_norms(texts: tuple[str, ...]) -> list[str]:
    """The specs in canonical form, in order, none twice.

    Raises:
        PlanError: one cannot be read, or is given twice.
    """
    try:
        norms = [str(NormSpec.parse(text)) for text in texts]
    except ValueError as error:
        raise PlanError(str(error)) from None
    twice = sorted({norm for norm in norms if norms.count(norm) > 1})
    if not norms or twice:
        raise PlanError(f"norms given twice: {', '.join(twice)}" if twice else "no norm is given")
    return norms


class PlanBuilder:
    """Collects cells; runs of equal hash are one run."""

    def __init__(self) -> None:
        self.cells: list[Cell] = []
        self.configs: dict[str, RunConfig] = {}

    def add(self, labels: dict[str, Any], config: RunConfig, seeds: int) -> None:
        """One cell for each of the seeds 0 ... seeds - 1."""
        for seed in range(seeds):
            seeded = vary(config, seed=seed)
            name = seeded.run_name()
            self.configs.setdefault(name, seeded)
            self.cells.append(Cell(labels, seed, name))
