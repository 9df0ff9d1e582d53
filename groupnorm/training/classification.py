"""The classification task: images held as one uint8 tensor, cross-entropy, top-1 error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groupnorm.data import ImageSet
from groupnorm.data.augment import augment, normalize
from groupnorm.training.config import RunConfig
from groupnorm.training.loop import Metrics

EVALUATION_BATCH = 256
PRECISE_IMAGES = 2048

RecomputeStatistics = Callable[[nn.Module, Iterator[Tensor]], AbstractContextManager[None]]
"""Puts population statistics of the given batches in place of a model's running statistics."""


class Classification:
    """Loss and evaluation of an image classifier.

    Validation metrics: `val_loss`, `val_error` (top-1, percent, with running statistics), and in
    the last five epochs `precise_val_error`: the same with batch norm's statistics recomputed over
    `PRECISE_IMAGES` augmented training images under fixed weights (Precise-BN; Wu & Johnson,
    arXiv 2105.07576). It is None for models without running statistics, and before.

    Args:
        recompute: the context manager that recomputes statistics; None when no layer has any.
    """

    def __init__(
        self, config: RunConfig, data: ImageSet, device: str, recompute: RecomputeStatistics | None
    ) -> None:
        self.config = config
        self.recompute = recompute
        limit = config.train_images or len(data.train_labels)
        if limit > len(data.train_labels):
            raise ValueError(
                f"train_images={limit}, but {data.name} has {len(data.train_labels)} of them"
            )
        self.train_images = data.train_images[:limit].to(device)
        self.train_labels = data.train_labels[:limit].to(device)
        self.test_images = data.test_images.to(device)
        self.test_labels = data.test_labels.to(device)
        self.mean, self.std = data.mean.to(device), data.std.to(device)
        self.pad, self.flip = data.pad, data.flip
        self.device = device

    @property
    def train_size(self) -> int:
        """Number of training images."""
        return len(self.train_labels)

    def loss(
        self, model: nn.Module, indices: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, int]:
        """Mean cross-entropy of the augmented images, and how many were classified wrong."""
        images = self._augmented(indices, generator)
        labels = self.train_labels[indices]
        with torch.autocast(self.device, torch.bfloat16, enabled=self._half):
            logits = model(images)
            loss = F.cross_entropy(logits, labels)
        return loss, int((logits.detach().argmax(1) != labels).sum())

    @torch.no_grad()
    def evaluate(self, model: nn.Module, *, last_epochs: bool) -> Metrics:
        """Top-1 error in percent and mean loss over the test images."""
        loss, error = self._test(model)
        precise = None
        if last_epochs and self.recompute is not None:
            with self.recompute(model, self._batches_for_statistics()):
                precise = self._test(model)[1]
        finite = loss if math.isfinite(loss) else None  # JSON has no NaN
        return {"val_loss": finite, "val_error": error, "precise_val_error": precise}

    @property
    def _half(self) -> bool:
        return self.config.precision == "bfloat16"

    def _test(self, model: nn.Module) -> tuple[float, float]:
        model.eval()
        loss, wrong = 0.0, 0
        for first in range(0, len(self.test_labels), EVALUATION_BATCH):
            images = self.test_images[first : first + EVALUATION_BATCH]
            labels = self.test_labels[first : first + EVALUATION_BATCH]
            with torch.autocast(self.device, torch.bfloat16, enabled=self._half):
                logits = model(self._laid_out(normalize(images, self.mean, self.std))).float()
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            wrong += int((logits.argmax(1) != labels).sum())
        model.train()
        return loss / len(self.test_labels), 100.0 * wrong / len(self.test_labels)

    def _batches_for_statistics(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(self.config.seed)
        order = torch.randperm(self.train_size, generator=generator)
        step = self.config.step_images
        for first in range(0, min(PRECISE_IMAGES, self.train_size) - step + 1, step):
            yield self._augmented(order[first : first + step], generator)

    def _augmented(self, indices: Tensor, generator: torch.Generator) -> Tensor:
        return self._laid_out(
            augment(
                self.train_images[indices],
                pad=self.pad,
                flip=self.flip,
                mean=self.mean,
                std=self.std,
                generator=generator,
            )
        )

    def _laid_out(self, images: Tensor) -> Tensor:
        if self.config.memory_format == "channels_last":
            return images.contiguous(memory_format=torch.channels_last)
        return images
