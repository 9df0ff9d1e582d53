"""The classification task: cross-entropy, top-1 error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groupnorm.data import Batches
from groupnorm.data.batches import epoch_order, epoch_steps
from groupnorm.training.config import RunConfig
from groupnorm.training.distributed import ALONE, Processes
from groupnorm.training.loop import Metrics

PRECISE_IMAGES = 2048
PERCENTILES = (1, 20, 80, 99)
_STATISTICS_EPOCH = 0  # epochs count from 1: images of its own

RecomputeStatistics = Callable[[nn.Module, Iterator[Tensor]], AbstractContextManager[None]]
"""Puts population statistics of the given batches in place of a model's running statistics."""


class Classification:
    """Loss and evaluation of an image classifier.

    Validation metrics: `val_loss`, `val_error` (top-1, percent, with running statistics), and in
    the last five epochs `precise_val_error`: the same with batch norm's statistics recomputed over
    `PRECISE_IMAGES` augmented training images under fixed weights (Precise-BN; Wu & Johnson,
    arXiv 2105.07576). It is None for models without running statistics, and before.

    With `watched` also `response_percentiles`: {"1", "20", "80", "99"} -> that percentile of the
    module's output for the first batch of test images (of the first process), in evaluation mode
    with running statistics, as in Wu & He 2018, Figure 6; None when one of them is not finite.

    Args:
        batches: the data.
        recompute: the context manager that recomputes statistics; None when no layer has any.
        watched: the module of the model whose responses to record; None for none.
    """

    def __init__(
        self,
        config: RunConfig,
        batches: Batches,
        recompute: RecomputeStatistics | None,
        processes: Processes = ALONE,
        watched: nn.Module | None = None,
    ) -> None:
        self.config = config
        self.batches = batches
        self.recompute = recompute
        self.processes = processes
        self.watched = watched

    def loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, int]:
        """Mean cross-entropy of the images, and how many were classified wrong."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self._half):
            logits = model(self._laid_out(images))
            loss = F.cross_entropy(logits, labels)
        return loss, int((logits.detach().argmax(1) != labels).sum())

    @torch.no_grad()
    def evaluate(self, model: nn.Module, *, last_epochs: bool) -> Metrics:
        """Top-1 error in percent and mean loss over the test images, over all processes."""
        if self.watched is None:
            responses: Metrics = {}
            loss, error = self._test(model)
        else:
            with _first_percentiles(self.watched) as responses:
                loss, error = self._test(model)
        precise = None
        if last_epochs and self.recompute is not None:
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
        model.eval()
        loss, wrong, seen = 0.0, 0, 0
        device = next(model.parameters()).device
        for images, labels in self.batches.test(self.processes.rank, self.processes.count):
            with torch.autocast(images.device.type, torch.bfloat16, enabled=self._half):
                logits = model(self._laid_out(images)).float()
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            wrong += int((logits.argmax(1) != labels).sum())
            seen += len(labels)
        model.train()
        loss, all_wrong, images_seen = self.processes.all_reduce_sum((loss, wrong, seen), device)
        return loss / images_seen, 100.0 * all_wrong / images_seen

    def _batches_for_statistics(self) -> Iterator[Tensor]:
        """Every process goes through all of them, as large as a pass of its training.

        Synchronized statistics belong to the whole step, which makes one batch.
        """
        seed, step_images = self.config.seed, self.config.step_images
        order = epoch_order(self.batches.train_size, seed, _STATISTICS_EPOCH)
        steps = epoch_steps(order[:PRECISE_IMAGES], step_images, seed, _STATISTICS_EPOCH)
        synchronized = self.config.norm.synchronized
        parts = 1 if synchronized else self.processes.count * self.config.accumulate
        for part in range(parts):
            rows = Processes(part, parts).share(step_images)
            for images, _ in self.batches.train(steps, rows):
                yield self._laid_out(images)

    def _laid_out(self, images: Tensor) -> Tensor:
        if self.config.memory_format == "channels_last":
            return images.contiguous(memory_format=torch.channels_last)
        return images


@contextmanager
def _first_percentiles(module: nn.Module) -> Iterator[Metrics]:
    """Fills the dict it gives with `response_percentiles` when `module` first runs inside."""
    found: Metrics = {}

    def note(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not found:
            found["response_percentiles"] = percentiles(output)

    handle = module.register_forward_hook(note)
    try:
        yield found
    finally:
        handle.remove()


def percentiles(values: Tensor) -> dict[str, float] | None:
    """{"1": ..., "20": ..., "80": ..., "99": ...} of all elements of a tensor of any shape.

    Interpolated linearly between neighbours. None when a value is not finite, or there is none.
    """
    ordered = values.detach().float().flatten().sort().values  # torch.quantile stops at 2**24
    count = len(ordered)
    if not count or not torch.isfinite(ordered[[0, -1]]).all():
        return None
    found = {}
    for percent in PERCENTILES:
        low, part = divmod(percent * (count - 1), 100)
        ends = ordered[low : low + 2].double().tolist()
        found[str(percent)] = ends[0] + part / 100 * (ends[-1] - ends[0])
    return found
