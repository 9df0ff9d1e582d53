"""What a task is to the training: the one contract between the loop and what is learned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from groupnorm.data.batches import Step, TrainingData
from groupnorm.training.config import TrainingConfig
from groupnorm.training.metric import Metric

Metrics = dict[str, Any]

RecomputeStatistics = Callable[[nn.Module, Iterator[Any]], AbstractContextManager[None]]
"""Puts population statistics of the given batches in place of a model's running statistics."""


class Part(NamedTuple):
    """What goes through the network in one pass: `inputs`, which the task alone reads, of so many
    `examples`."""

    inputs: Any
    examples: int


@dataclass
class EpochTotals:
    """Sums over the steps of an epoch; times in seconds, of this process.

    Attributes:
        losses: by name, the sum of the loss over the examples.
        counts: by name, what the task counted.
    """

    losses: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    examples: int = 0
    data_seconds: float = 0.0
    forward_seconds: float = 0.0
    backward_seconds: float = 0.0


class Task(Protocol):
    """What differs between classification, detection, segmentation and video: batches, losses,
    evaluation.

    A batch is the task's own: the loop takes it from `data` and hands it to `split`, and its parts
    to `losses`, without looking into them. Which examples are one worker's, and that no pass cuts a
    worker's examples apart where that matters (`TrainingConfig.whole_workers`), is decided there.
    """

    @property
    def data(self) -> TrainingData:
        """The training data, which yields this task's batches."""
        ...

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What an epoch's row may hold of this task, the reported metric first."""
        ...

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of every whole epoch, at least one."""
        ...

    def steps(self, epoch: int) -> Sequence[Step]:
        """The steps of an epoch, which is counted from 1, in their order.

        `steps_per_epoch` steps of `TrainingConfig.step_images` examples each. They follow from the
        seed and the epoch alone.
        """
        ...

    def split(self, batch: Any, step: Step, progress: float) -> Sequence[Part]:
        """A batch in `TrainingConfig.accumulate` parts of equal size, one for each pass.

        Args:
            batch: of `data.train`: this process's share of a step.
            step: that step, whose seed all random draws about it follow from.
            progress: share of the run's steps that are done, from 0 to below 1.
        """
        ...

    def losses(
        self, model: nn.Module, part: Part
    ) -> tuple[Mapping[str, Tensor], Mapping[str, int]]:
        """The losses of a part by name, and what is counted in it.

        Each loss is a mean, so that the mean over equal parts is the loss of the whole step. Their
        sum is minimized. Every part of a run has the same names in the same order, in every
        process. Random draws come from torch's default generators, which are seeded for each step
        and process.

        Args:
            model: the network in training mode, perhaps wrapped for several processes.

        Returns:
            Scalars with a graph, in float32 as a rule, and whole numbers.
        """
        ...

    def training_metrics(self, totals: EpochTotals) -> Metrics:
        """What an epoch's row holds of the training besides the losses, from the epoch's sums."""
        ...

    def evaluate(self, model: nn.Module, *, reported: bool) -> Metrics:
        """Metrics on the validation data; the model is left in training mode.

        Args:
            reported: the epoch is one of the last ones that make the reported number.
        """
        ...


def whole_steps(config: TrainingConfig, train_size: int) -> int:
    """The steps that `train_size` examples make; an incomplete last one is dropped.

    Raises:
        ValueError: fewer examples than a step has.
    """
    steps = train_size // config.step_images
    if steps == 0:
        raise ValueError(
            f"a step of {config.workers} x {config.batch_per_worker} images needs at least "
            f"{config.step_images} training images, the data has {train_size}"
        )
    return steps
