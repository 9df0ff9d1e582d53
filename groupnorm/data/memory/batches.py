"""Batches of small images that lie in memory, on the training's device, as one tensor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from groupnorm.data.batches import ALL, Step
from groupnorm.data.issues import Issues
from groupnorm.data.memory.augment import augment, normalize
from groupnorm.data.memory.image_set import ImageSet

TEST_BATCH = 64


class InMemory:
    """`Batches` of an `ImageSet`.

    Args:
        limit: train on the first so many images only; None for all.
        device: where images and labels lie.

    Raises:
        ValueError: the data set has fewer training images than `limit`.
    """

    def __init__(self, images: ImageSet, limit: int | None = None, device: str = "cpu") -> None:
        size = len(images.train_labels)
        if limit is not None and limit > size:
            raise ValueError(f"train_images={limit}, but {images.name} has {size} of them")
        self.name, self.version = images.name, images.version
        self.notes = images.notes
        self.decoders: dict[str, str] = {}
        self.num_classes, self.channels = images.num_classes, images.channels
        self.train_size, self.test_size = limit or size, len(images.test_labels)
        self.image_size = min(images.train_images.shape[2:])
        self._train_images = images.train_images[:limit].to(device)
        self._train_labels = images.train_labels[:limit].to(device)
        self._test_images = images.test_images.to(device)
        self._test_labels = images.test_labels.to(device)
        self._mean, self._std = images.mean.to(device), images.std.to(device)
        self._pad, self._flip = images.pad, images.flip

    def train(self, steps: Iterable[Step], rows: slice = ALL) -> Iterator[tuple[Tensor, Tensor]]:
        """Padded, cropped, mirrored and normalized images of every step's `rows`."""
        for step in steps:
            indices = step.indices[rows]
            images = augment(
                self._train_images[indices],
                pad=self._pad,
                flip=self._flip,
                mean=self._mean,
                std=self._std,
                generator=torch.Generator().manual_seed(step.seed),
                of=(len(step.indices), rows),
            )
            yield images, self._train_labels[indices]

    def test(self, first: int = 0, every: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalized test images, `TEST_BATCH` at a time."""
        for begin in range(first * TEST_BATCH, self.test_size, every * TEST_BATCH):
            batch = slice(begin, begin + TEST_BATCH)
            images = normalize(self._test_images[batch], self._mean, self._std)
            yield images, self._test_labels[batch]

    def data_issues(self) -> Issues:
        """Nothing: every image was read when the set was loaded."""
        return {}

    def remember(self, issues: Issues) -> None:
        """There are none, so there is nothing to add."""
