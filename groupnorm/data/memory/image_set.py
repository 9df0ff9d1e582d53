"""ImageSet: a classification data set as four tensors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from groupnorm.data.issues import DataError
from groupnorm.data.memory.moments import pixel_moments
from groupnorm.data.validation import hold_out_rows, validation_note


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
        sources: int64 (N,), a number for what each training image was made from, where several
            were made from one; None: each from something of its own.
        notes: what whoever trains on it should know, in sentences.

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
    sources: Tensor | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for split in ("train", "test"):
            images: Tensor = getattr(self, f"{split}_images")
            labels: Tensor = getattr(self, f"{split}_labels")
            what = f"{self.name}, {split}"
            check_images(what, images, self.train_images)
            check_labels(what, labels, len(images), self.num_classes)

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def train_size(self) -> int:
        """The number of training images."""
        return len(self.train_labels)

    @property
    def test_size(self) -> int:
        """The number of test images."""
        return len(self.test_labels)

    @property
    def channels(self) -> int:
        """The number of image channels: 1 or 3."""
        return self.train_images.shape[1]

    def hold_out(self, count: int | None) -> ImageSet:
        """The same with `count` training images in place of the test images; None changes nothing.

        They are the last ones of each class, and none that shares its source with another image:
        what stays is what is trained on, and has nothing of them.

        Raises:
            ValueError: so many cannot be held out.
        """
        if count is None:
            return self
        candidates = torch.arange(len(self.train_labels))
        if self.sources is not None:
            candidates = candidates[self.sources.bincount()[self.sources] == 1]
        kept, held = hold_out_rows(
            self.train_labels, candidates, count, self.name, self.class_names
        )
        return replace(
            self,
            train_images=self.train_images[kept],
            train_labels=self.train_labels[kept],
            test_images=self.train_images[held],
            test_labels=self.train_labels[held],
            sources=None if self.sources is None else self.sources[kept],
            notes=(*self.notes, validation_note(count)),
        )

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
        return pixel_moments(self.train_images, 1)


def check_images(what: str, images: Tensor, train_images: Tensor) -> None:
    """Check that images are uint8 (N, C, H, W), contiguous, at least one, and of one shape.

    Args:
        what: begins the message.
        images: of either split.
        train_images: whose channels and size all images have.

    Raises:
        DataError: they are not.
    """
    if images.dtype != torch.uint8 or images.dim() != 4 or not images.is_contiguous():
        raise DataError(
            f"{what}: expected contiguous uint8 images (N, C, H, W), "
            f"got {images.dtype} {tuple(images.shape)}"
        )
    if images.shape[1:] != train_images.shape[1:] or not len(images):
        raise DataError(
            f"{what}: expected images of shape {tuple(train_images.shape[1:])}, "
            f"at least one, got {tuple(images.shape)}"
        )


def check_labels(what: str, labels: Tensor, examples: int, num_classes: int) -> None:
    """Check that there is one label for each example, and a class for each label.

    Raises:
        DataError: another type or number, or labels out of range; the message begins with `what`.
    """
    if labels.dtype != torch.int64 or labels.shape != (examples,):
        raise DataError(
            f"{what}: expected {examples} int64 labels, got {labels.dtype} {tuple(labels.shape)}"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise DataError(
            f"{what}: expected labels from 0 to {num_classes - 1}, "
            f"got {low} to {high}; the file is damaged, get it again"
        )
