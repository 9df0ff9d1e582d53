"""What the worker processes do: the images of one step or one test batch, from files to tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from groupnorm.data.files.decode import UnreadableError, read_rgb
from groupnorm.data.files.listing import ImageFiles
from groupnorm.data.files.transforms import draws_of, evaluation_transform, train_transform
from groupnorm.data.issues import DataError

MOST_UNREADABLE = 1000  # files of a class one after another; more is a broken disk


class Shard(NamedTuple):
    """A process's part of a step: its seed, positions in it, and the examples at these."""

    seed: int
    positions: Sequence[int]
    indices: Sequence[int]


class Batch(NamedTuple):
    """What comes back: tensors, and the issues of single files.

    Attributes:
        images: float32 (m, 3, S, S).
        labels: int64 (m,).
        unreadable: indices of files that could not be decoded -> what is wrong with them.
        converted: indices of files that were not RGB.
        failure: the message of a DataError, or nothing. Raised in a worker process, it would
            arrive as a traceback.
    """

    images: Tensor
    labels: Tensor
    unreadable: dict[int, str]
    converted: list[int]
    failure: str


class TrainExamples(Dataset[Batch]):
    """Augmented training examples; the item of a `Shard`."""

    def __init__(self, files: ImageFiles, image_size: int) -> None:
        self.paths, self.labels = files.train_paths, files.train_labels
        self.class_names = files.class_names
        self.image_size = image_size
        self.transform = train_transform(image_size)

    def __getitem__(self, shard: Shard) -> Batch:
        making = _Making(self.image_size)
        try:
            for position, index in zip(shard.positions, shard.indices, strict=True):
                self._make(making, shard.seed, position, index)
        except DataError as error:
            return making.batch(str(error))
        return making.batch()

    def _make(self, making: _Making, seed: int, position: int, index: int) -> None:
        """The example at `index`, or else the next of its class that can be read."""
        label, first, tries = int(self.labels[index]), "", 0
        for candidate in self._candidates(index, label):
            path = self.paths[candidate]
            try:
                image, converted = read_rgb(path)
            except UnreadableError as error:
                first = first or f"{path}: {error}"
                making.unreadable[candidate] = str(error)
                tries += 1
                continue
            with draws_of(seed, position):
                pixels = self.transform(image)
            making.add(pixels, label, candidate, converted)
            return
        raise DataError(
            f"none of {tries:,} training images of the class {self.class_names[label]} can be "
            f"decoded, the first {first}; the data set is damaged (was the disk full when it was "
            "unpacked?): get it again"
        )

    def _candidates(self, index: int, label: int) -> Iterator[int]:
        """`index`, then the images after it that have its label, from the last on to the first."""
        yield index
        members = torch.where(self.labels == label)[0]
        offset = int(torch.searchsorted(members, index))
        others = torch.cat([members[offset + 1 :], members[:offset]])
        yield from others[: MOST_UNREADABLE - 1].tolist()


class EvaluationExamples(Dataset[Batch]):
    """Test examples without those that cannot be decoded; the item of a sequence of indices."""

    def __init__(self, files: ImageFiles, image_size: int) -> None:
        self.paths, self.labels = files.test_paths, files.test_labels
        self.image_size = image_size
        self.transform = evaluation_transform(image_size)

    def __getitem__(self, indices: Sequence[int]) -> Batch:
        making = _Making(self.image_size)
        try:
            for index in indices:
                try:
                    image, converted = read_rgb(self.paths[index])
                except UnreadableError as error:
                    making.unreadable[index] = str(error)
                    continue
                making.add(self.transform(image), int(self.labels[index]), index, converted)
        except DataError as error:
            return making.batch(str(error))
        return making.batch()


class _Making:
    """Collects a batch."""

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size
        self.images: list[Tensor] = []
        self.labels: list[int] = []
        self.unreadable: dict[int, str] = {}
        self.converted: list[int] = []

    def add(self, image: Tensor, label: int, index: int, converted: bool) -> None:
        self.images.append(image)
        self.labels.append(label)
        if converted:
            self.converted.append(index)

    def batch(self, failure: str = "") -> Batch:
        shape = (0, 3, self.image_size, self.image_size)
        # stacked pictures keep Pillow's order, channels last
        images = torch.stack(self.images).contiguous() if self.images else torch.empty(shape)
        labels = torch.tensor(self.labels, dtype=torch.int64)
        return Batch(images, labels, self.unreadable, self.converted, failure)
