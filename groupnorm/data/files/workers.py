"""What the worker processes do: the images of one step or one test batch, from files to tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from groupnorm.data.batches import Step
from groupnorm.data.files.decode import UnreadableError, read_rgb
from groupnorm.data.files.listing import ImageFiles
from groupnorm.data.files.transforms import draws_of, evaluation_transform, train_transform
from groupnorm.data.issues import DataError

MOST_UNREADABLE = 1000  # files of a class one after another; more is a broken disk
R = TypeVar("R")


class Shard(NamedTuple):
    """A process's part of a step: its seed, positions in it, and the examples at these."""

    seed: int
    positions: Sequence[int]
    indices: Sequence[int]


def shard_of(step: Step, rows: slice, train_size: int) -> Shard:
    """The places `rows` of a step.

    Raises:
        ValueError: the step names an example that is not there.
    """
    indices = step.indices.tolist()
    if indices and (min(indices) < 0 or max(indices) >= train_size):
        raise ValueError(
            f"expected indices from 0 to {train_size - 1}, got {min(indices)} to {max(indices)}"
        )
    return Shard(step.seed, range(len(indices))[rows], indices[rows])


def first_readable(
    files: ImageFiles, index: int, read: Callable[[str], R], unreadable: dict[int, str]
) -> tuple[int, R]:
    """Read the training file at `index`, or else the next of its class that can be read.

    After the last one of the class comes the first.

    Args:
        files: the data set.
        index: of a training file.
        read: reads a file, or raises UnreadableError.
        unreadable: gets those that could not be read -> what is wrong with them.

    Returns:
        the index of the file, and what `read` gave.

    Raises:
        DataError: no file of the class can be read, or too many one after another cannot.
    """
    label, first, tries = int(files.train_labels[index]), "", 0
    for candidate in _candidates(files.train_labels, index, label):
        path = files.train_paths[candidate]
        try:
            return candidate, read(path)
        except UnreadableError as error:
            first = first or f"{path}: {error}"
            unreadable[candidate] = str(error)
            tries += 1
    raise DataError(
        f"none of {tries:,} training {files.noun}s of the class {files.class_names[label]} can be "
        f"decoded, the first {first}; the data set is damaged (was the disk full when it was "
        "unpacked?): get it again"
    )


def _candidates(labels: Tensor, index: int, label: int) -> Iterator[int]:
    """`index`, then the files after it that have its label, from the last on to the first."""
    yield index
    members = torch.where(labels == label)[0]
    offset = int(torch.searchsorted(members, index))
    others = torch.cat([members[offset + 1 :], members[:offset]])
    yield from others[: MOST_UNREADABLE - 1].tolist()


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
        self.files, self.image_size = files, image_size
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
        read, (image, converted) = first_readable(self.files, index, read_rgb, making.unreadable)
        with draws_of(seed, position):
            pixels = self.transform(image)
        making.add(pixels, int(self.files.train_labels[index]), read, converted)


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
