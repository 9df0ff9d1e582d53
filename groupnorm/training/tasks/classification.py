"""The classification task: cross-entropy, top-1 error."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groupnorm.data import Batches
from groupnorm.data.batches import Step, epoch_order, epoch_steps, shrink
from groupnorm.training.config import RunConfig
from groupnorm.training.distributed import ALONE, Processes
from groupnorm.training.evaluation.probe import recorded_responses
from groupnorm.training.evaluation.top1 import top1
from groupnorm.training.metric import CLASSIFICATION
from groupnorm.training.schedules import image_size
from groupnorm.training.task import EpochTotals, Metrics, Part, RecomputeStatistics, whole_steps

PRECISE_IMAGES = 2048
_STATISTICS_EPOCH = 0  # epochs count from 1: images of its own


class Classification:
    """Batches, loss and evaluation of an image classifier.

    A batch is images (n, C, H, W) and their labels (n,), and a pass's part is some of them. The
    images of a worker follow each other, and what cuts a batch into equal parts leaves them
    together.

    Validation metrics: `val_loss`, `val_error` (top-1, percent, with running statistics), and in
    the reported epochs `precise_val_error`: the same with batch norm's statistics recomputed over
    `PRECISE_IMAGES` augmented training images under fixed weights (Precise-BN; Wu & Johnson,
    arXiv 2105.07576). It is None for models without running statistics, and before.

    With `probed` also `response_percentiles`: {"1", "20", "80", "99"} -> that percentile of the
    module's output for the first batch of test images (of the first process), in evaluation mode
    with running statistics, as in Wu & He 2018, Figure 6; None when one of them is not finite.

    Args:
        data: the labelled images.
        recompute: the context manager that recomputes statistics; None when no layer has any.
        probed: the module of the model whose responses to record (`probe_module`); None for none.
    """

    metrics = CLASSIFICATION

    def __init__(
        self,
        config: RunConfig,
        data: Batches,
        recompute: RecomputeStatistics | None,
        processes: Processes = ALONE,
        probed: nn.Module | None = None,
    ) -> None:
        self.config = config
        self.data = data
        self.recompute = recompute
        self.processes = processes
        self.probed = probed
        self.steps_per_epoch = whole_steps(config, data.train_size)

    def steps(self, epoch: int) -> list[Step]:
        """The steps of an epoch: all images in an order of its own, the incomplete step dropped."""
        seed, step_images = self.config.seed, self.config.step_images
        order = epoch_order(self.data.train_size, seed, epoch)
        return epoch_steps(order, step_images, seed, epoch)

    def split(self, batch: tuple[Tensor, Tensor], step: Step, progress: float) -> Sequence[Part]:
        """Images of the size that the run has come to, and their labels, for each pass."""
        images, labels = batch
        images = shrink(images, image_size(self.config.size_schedule, progress))
        passes = self.config.accumulate
        return [
            Part(part, len(part[1]))
            for part in zip(images.chunk(passes), labels.chunk(passes), strict=True)
        ]

    def losses(self, model: nn.Module, part: Part) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Mean cross-entropy of the images, and how many were classified wrong."""
        images, labels = part.inputs
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self._half):
            logits = model(self._in_memory_format(images))
            loss = F.cross_entropy(logits, labels)
        return {"loss": loss}, {"wrong": int((logits.detach().argmax(1) != labels).sum())}

    def training_metrics(self, totals: EpochTotals) -> Metrics:
        """`train_error`, in percent of the epoch's images as they were seen."""
        return {"train_error": 100.0 * totals.counts["wrong"] / totals.examples}

    @torch.no_grad()
    def evaluate(self, model: nn.Module, *, reported: bool) -> Metrics:
        """Top-1 error in percent and mean loss over the test images, over all processes."""
        with recorded_responses(self.probed) as responses:
            loss, error = self._test(model)
        precise = None
        if reported and self.recompute is not None:
            device = next(model.parameters()).device.type
            with (
                torch.autocast(device, torch.bfloat16, enabled=self._half),
                self.recompute(model, self._batches_for_statistics()),
            ):
                precise = self._test(model)[1]
        finite = loss if math.isfinite(loss) else None  # JSON has no NaN
        return {
            "val_loss": finite,
            "val_error": error,
            "precise_val_error": precise,
            **responses,
        }

    @property
    def _half(self) -> bool:
        return self.config.precision == "bfloat16"

    def _test(self, model: nn.Module) -> tuple[float, float]:
        def logits(images: Tensor) -> Tensor:
            with torch.autocast(images.device.type, torch.bfloat16, enabled=self._half):
                found: Tensor = model(self._in_memory_format(images))
            return found.float()

        model.eval()
        batches = self.data.test(self.processes.rank, self.processes.count)
        loss, error = top1(logits, batches, next(model.parameters()).device, self.processes)
        model.train()
        return loss, error

    def _batches_for_statistics(self) -> Iterator[Tensor]:
        """Every process goes through all of them, as large as a pass of its training.

        Synchronized statistics belong to the whole step, which makes one batch.
        """
        seed, step_images = self.config.seed, self.config.step_images
        order = epoch_order(self.data.train_size, seed, _STATISTICS_EPOCH)
        steps = epoch_steps(order[:PRECISE_IMAGES], step_images, seed, _STATISTICS_EPOCH)
        synchronized = self.config.synchronized
        parts = 1 if synchronized else self.processes.count * self.config.accumulate
        for part in range(parts):
            rows = Processes(part, parts).shard(step_images)
            for images, _ in self.data.train(steps, rows):
                yield self._in_memory_format(images)

    def _in_memory_format(self, images: Tensor) -> Tensor:
        if self.config.memory_format == "channels_last":
            return images.contiguous(memory_format=torch.channels_last)
        return images
