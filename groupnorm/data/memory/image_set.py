"""ImageSet: a classification data set as four tensors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from groupnorm.data.issues import DataError


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A data set in memory.

    Attributes:
        name: one of `groupnorm.data.NAMES`.
        version: changes whenever the pixels or labels of this name change.
        train_images: uint8 (N, C, H, W), contiguous.
        train_labels: int64 (N,), in [0, num_classes).
        test_images: uint8 (M, C, H, W), contiguous.
        test_labels: int64 (M,).
        class_names: one name per class.
        flip: a horizontal flip keeps the label (False for digits).
        pad: pixels of padding that suit a random crop of these images.

    Raises:
        DataError: tensors of the wrong type or shape, or labels out of range.
    """

    name: str
    version: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    class_names: tuple[str, ...]
    flip: bool
    pad: int

    def __post_init__(self) -> None:
        for split in ("train", "test"):
            images: Tensor = getattr(self, f"{split}_images")
            labels: Tensor = getattr(self, f"{split}_labels")
            what = f"{self.name}, {split}"
            if images.dtype != torch.uint8 or images.dim() != 4 or not images.is_contiguous():
                raise DataError(
                    f"{what}: expected contiguous uint8 images (N, C, H, W), "
                    f"got {images.dtype} {tuple(images.shape)}"
                )
            if images.shape[1:] != self.train_images.shape[1:] or not len(images):
                raise DataError(
                    f"{what}: expected images of shape {tuple(self.train_images.shape[1:])}, "
                    f"at least one, got {tuple(images.shape)}"
                )
            if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
                raise DataError(
                    f"{what}: expected {len(images)} int64 labels, "
                    f"got {labels.dtype} {tuple(labels.shape)}"
                )
            low, high = int(labels.min()), int(labels.max())
            if low < 0 or high >= self.num_classes:
                raise DataError(
                    f"{what}: expected labels from 0 to {self.num_classes - 1}, "
                    f"got {low} to {high}; the file is damaged, get it again"
                )

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def channels(self) -> int:
        """The number of image channels: 1 or 3."""
        return self.train_images.shape[1]

    @cached_property
    def mean(self) -> Tensor:
        """Mean of the training images per channel, float32 (C,), pixels in [0, 1]."""
        return self._moments[0]

    @cached_property
    def std(self) -> Tensor:
        """Standard deviation of the training pixels per channel, float32 (C,), pixels in [0, 1]."""
        return self._moments[1]

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        values = torch.arange(256, dtype=torch.float64) / 255
        means, stds = [], []
        for channel in self.train_images.unbind(1):
            share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
            mean = (share * values).sum()
            means.append(mean)
            stds.append((share * (values - mean).square()).sum().sqrt())
        return torch.stack(means).float(), torch.stack(stds).float()
