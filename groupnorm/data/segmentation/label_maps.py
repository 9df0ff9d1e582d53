"""SegmentationSet: images and, for each, a map with the class of every pixel; and their batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from groupnorm.data.batches import ALL, Step, TrainingData
from groupnorm.data.issues import DataError
from groupnorm.data.memory.image_set import check_images
from groupnorm.data.memory.moments import pixel_moments
from groupnorm.data.validation import validation_note

IGNORED = 255
"""What a map has at a pixel that counts in no loss and no metric."""


class SegmentationBatches(TrainingData, Protocol):
    """Training and test batches of images with label maps.

    Attributes:
        class_names: of each class; the background is one.
        absent: names of the classes that no test pixel has.
        train_size: number of training images; the indices of a step are of them.
        test_size: number of test images.
    """

    class_names: tuple[str, ...]
    absent: tuple[str, ...]
    channels: int
    train_size: int
    test_size: int

    def train(self, steps: Iterable[Step], rows: slice = ALL) -> Iterator[tuple[Tensor, Tensor]]:
        """For every step its augmented, normalized images and their maps.

        Args:
            rows: which places of every step to make; a process makes its share.

        Yields:
            float32 (m, C, H, W) and int64 (m, H, W), on the device.
        """
        ...

    def test(self, first: int = 0, every: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Every `every`-th batch of the test images and maps, from batch `first` on."""
        ...


@dataclass(frozen=True, eq=False)
class SegmentationSet:
    """A data set of images with label maps, in memory.

    Attributes:
        name: one of `groupnorm.data.SEGMENTATION_NAMES`.
        version: changes whenever the pixels or labels of this name change.
        train_images: uint8 (N, C, H, W), contiguous.
        train_maps: uint8 (N, H, W): the class of each pixel, or `IGNORED`.
        test_images: uint8 (M, C, H, W), contiguous.
        test_maps: uint8 (M, H, W).
        class_names: one name per class, at most 255; the background is a class.
        notes: what whoever trains on it should know, in sentences.

    Raises:
        DataError: tensors of the wrong type or shape, or labels out of range.
    """

    name: str
    version: str
    train_images: Tensor
    train_maps: Tensor
    test_images: Tensor
    test_maps: Tensor
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for split in ("train", "test"):
            images: Tensor = getattr(self, f"{split}_images")
            what = f"{self.name}, {split}"
            check_images(what, images, self.train_images)
            _check_maps(what, getattr(self, f"{split}_maps"), images, self.num_classes)

    @property
    def num_classes(self) -> int:
        """The number of classes, that of the background among them."""
        return len(self.class_names)

    @property
    def train_size(self) -> int:
        """The number of training images."""
        return len(self.train_images)

    @property
    def test_size(self) -> int:
        """The number of test images."""
        return len(self.test_images)

    @property
    def channels(self) -> int:
        """The number of image channels: 1 or 3."""
        return self.train_images.shape[1]

    @property
    def absent(self) -> tuple[str, ...]:
        """Names of the classes that no test pixel has."""
        counts = self.test_maps.flatten().bincount(minlength=self.num_classes).tolist()
        return tuple(n for n, count in zip(self.class_names, counts, strict=False) if not count)

    def hold_out(self, count: int | None) -> SegmentationSet:
        """The same with the last `count` training images in place of the test images.

        None changes nothing.

        Raises:
            ValueError: no training image would stay.
        """
        if count is None:
            return self
        if count >= self.train_size:
            raise ValueError(
                f"validation_images={count}, but {self.name} has {self.train_size} training images "
                "and must keep one"
            )
        return replace(
            self,
            train_images=self.train_images[:-count],
            train_maps=self.train_maps[:-count],
            test_images=self.train_images[-count:],
            test_maps=self.train_maps[-count:],
            notes=(*self.notes, validation_note(count)),
        )

    @cached_property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the training pixels per channel, float32 (C,), as values
        in [0, 1]."""
        return pixel_moments(self.train_images, 1)


def _check_maps(what: str, maps: Tensor, images: Tensor, num_classes: int) -> None:
    count, _, height, width = images.shape
    if maps.dtype != torch.uint8 or maps.shape != (count, height, width):
        raise DataError(
            f"{what}: expected uint8 maps {(count, height, width)}, one for each image, "
            f"got {maps.dtype} {tuple(maps.shape)}"
        )
    wrong = (maps >= num_classes) & (maps != IGNORED)
    if wrong.any():
        raise DataError(
            f"{what}: expected labels from 0 to {num_classes - 1}, or {IGNORED} for a pixel that "
            f"does not count, got {int(maps[wrong][0])}"
        )
