"""What tasks share whose batches are examples and labels: steps, passes and cross-entropy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groupnorm.data.batches import ALL, Step, TrainingData, epoch_order, epoch_steps
from groupnorm.training.config import TrainingConfig
from groupnorm.training.distributed import ALONE, Processes
from groupnorm.training.memory_format import in_memory_format
from groupnorm.training.metric import PRECISE
from groupnorm.training.task import Metrics, Part, RecomputeStatistics, whole_steps

STATISTICS_EPOCH = 0
"""Epochs count from 1: batch norm's statistics are recomputed over examples of their own."""


class LabelledData(TrainingData, Protocol):
    """Training data of which a batch is the examples (n, ...) and their labels (n, ...)."""

    train_size: int

    def train(self, steps: Iterable[Step], rows: slice = ALL) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Batches.train`."""
        ...


class LabelledTask:
    """A task whose batch is the examples (n, ...) and their labels: one of each, (n,), or of each
    pixel, where a subclass has losses of its own.

    A pass's part is some of them. The examples of a worker follow each other, and what cuts a batch
    into equal parts leaves them together.

    Args:
        recompute: the context manager that recomputes statistics; None when no layer has any.
    """

    precise_examples: ClassVar[int]
    """Over so many augmented training examples batch norm's statistics are recomputed."""
    config: TrainingConfig
    data: LabelledData

    def __init__(
        self,
        config: TrainingConfig,
        data: LabelledData,
        recompute: RecomputeStatistics | None,
        processes: Processes = ALONE,
    ) -> None:
        self.config = config
        self.data = data
        self.recompute = recompute
        self.processes = processes
        self.steps_per_epoch = whole_steps(config, data.train_size)

    def steps(self, epoch: int) -> list[Step]:
        """The steps of an epoch: all examples in its own order, the incomplete step dropped."""
        seed, step_images = self.config.seed, self.config.step_images
        order = epoch_order(self.data.train_size, seed, epoch)
        return epoch_steps(order, step_images, seed, epoch)

    def split(self, batch: tuple[Tensor, Tensor], step: Step, progress: float) -> Sequence[Part]:
        """Examples and their labels for each pass."""
        inputs, labels = batch
        passes = self.config.accumulate
        return [
            Part(part, len(part[1]))
            for part in zip(inputs.chunk(passes), labels.chunk(passes), strict=True)
        ]

    def losses(self, model: nn.Module, part: Part) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Mean cross-entropy of the examples, and how many were classified wrong."""
        inputs, labels = part.inputs
        with self.autocast(inputs):
            logits = model(self.prepared(inputs))
            loss = F.cross_entropy(logits, labels)
        return {"loss": loss}, {"wrong": int((logits.detach().argmax(1) != labels).sum())}

    def prepared(self, inputs: Tensor) -> Tensor:
        """Examples as the network takes them: in the memory format of the run."""
        return in_memory_format(inputs, self.config.memory_format)

    def autocast(self, like: Tensor) -> torch.autocast:
        """Mixed precision on the device of a tensor, where the run has it."""
        half = self.config.precision == "bfloat16"
        return torch.autocast(like.device.type, torch.bfloat16, enabled=half)

    def logits(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """What the model makes of examples, in float32."""
        with self.autocast(inputs):
            found: Tensor = model(self.prepared(inputs))
        return found.float()

    def tested(self, model: nn.Module) -> Metrics:
        """Metrics of the test examples, over all processes, with `val_loss` among them; of a task
        that leaves `evaluate` as it is."""
        raise NotImplementedError

    @torch.no_grad()
    def evaluate(self, model: nn.Module, *, reported: bool) -> Metrics:
        """What is `tested` in evaluation mode, and of each the one with recomputed statistics: in
        reported epochs, None in others."""
        found = self._tested(model)
        precise: Metrics = dict.fromkeys(found)
        if reported and self.recompute is not None:
            with self.recomputed(model):
                precise = self._tested(model)
        return found | {PRECISE + name: value for name, value in precise.items()}

    def _tested(self, model: nn.Module) -> Metrics:
        model.eval()
        found = self.tested(model)
        model.train()
        if not math.isfinite(found["val_loss"]):  # JSON has no NaN
            found["val_loss"] = None
        return found

    @contextmanager
    def recomputed(self, model: nn.Module) -> Iterator[None]:
        """Within this context batch norms have recomputed statistics."""
        assert self.recompute is not None
        with (
            self.autocast(next(model.parameters())),
            self.recompute(model, self.batches_for_statistics()),
        ):
            yield

    def batches_for_statistics(self) -> Iterator[Tensor]:
        """The examples that statistics are recomputed over: the same whatever the norm.

        Every process goes through all of them, as large as a pass of its training. Synchronized
        statistics belong to the whole step, which makes one batch.
        """
        seed, step_images = self.config.seed, self.config.step_images
        order = epoch_order(self.data.train_size, seed, STATISTICS_EPOCH)
        order = order[: max(self.precise_examples, step_images)]
        steps = epoch_steps(order, step_images, seed, STATISTICS_EPOCH)
        synchronized = self.config.synchronized
        parts = 1 if synchronized else self.processes.count * self.config.accumulate
        for part in range(parts):
            rows = Processes(part, parts).shard(step_images)
            for inputs, _ in self.data.train(steps, rows):
                yield self.prepared(inputs)
