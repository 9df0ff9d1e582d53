"""Batches of images and label maps that lie in memory, as uint8."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from groupnorm.data.batches import ALL, Step
from groupnorm.data.issues import Issues
from groupnorm.data.memory.augment import normalize
from groupnorm.data.memory.batches import TEST_BATCH
from groupnorm.data.segmentation.label_maps import SegmentationSet


class MapsInMemory:
    """`SegmentationBatches` of a `SegmentationSet`.

    Half of the training images are flipped from left to right, each with its map.

    Args:
        limit: train on the first so many images only; None for all.
        device: where images and maps lie.

    Raises:
        ValueError: the data set has fewer training images than `limit`.
    """

    def __init__(
        self, images: SegmentationSet, limit: int | None = None, device: str = "cpu"
    ) -> None:
        if limit is not None and limit > images.train_size:
            raise ValueError(
                f"train_images={limit}, but {images.name} has {images.train_size} of them"
            )
        self.name, self.version = images.name, images.version
        self.notes = images.notes
        self.decoders: dict[str, str] = {}
        self.class_names, self.absent = images.class_names, images.absent
        self.channels = images.channels
        self.train_size, self.test_size = limit or images.train_size, images.test_size
        self._train_images = images.train_images[:limit].to(device)
        self._train_maps = images.train_maps[:limit].to(device)
        self._test_images = images.test_images.to(device)
        self._test_maps = images.test_maps.to(device)
        self._mean, self._std = (values.to(device) for values in images.moments)

    def train(self, steps: Iterable[Step], rows: slice = ALL) -> Iterator[tuple[Tensor, Tensor]]:
        """Images of every step's `rows`, perhaps flipped, normalized, with their maps."""
        for step in steps:
            generator = torch.Generator().manual_seed(step.seed)
            flipped = (torch.rand(len(step.indices), generator=generator) < 0.5)[rows]
            flipped = flipped.to(self._train_maps.device)
            indices = step.indices[rows].to(self._train_maps.device)
            images, maps = self._train_images[indices], self._train_maps[indices]
            images = torch.where(flipped.view(-1, 1, 1, 1), images.flip(3), images)
            maps = torch.where(flipped.view(-1, 1, 1), maps.flip(2), maps)
            yield normalize(images, self._mean, self._std), maps.long()

    def test(self, first: int = 0, every: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalized test images and their maps, `TEST_BATCH` at a time."""
        for begin in range(first * TEST_BATCH, self.test_size, every * TEST_BATCH):
            batch = slice(begin, begin + TEST_BATCH)
            images = normalize(self._test_images[batch], self._mean, self._std)
            yield images, self._test_maps[batch].long()

    def data_issues(self) -> Issues:
        """Nothing: every image was read when the set was loaded."""
        return {}

    def remember(self, issues: Issues) -> None:
        """There are none, so there is nothing to add."""
