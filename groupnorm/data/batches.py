"""Batches: what training and evaluation read, whatever the data set is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from groupnorm.data.issues import Issues

ALL = slice(None)


@dataclass(frozen=True, eq=False)
class Step:
    """The examples of one optimizer step.

    All that is random about the step's images follows from `seed` and their place in `indices`:
    neither the number of processes nor where an epoch was resumed changes an image.

    Attributes:
        seed: non-negative, below 2**63.
        indices: int64 (n,), into the training examples.
    """

    seed: int
    indices: Tensor


class DataSet(Protocol):
    """A data set as `groupnorm.data.load` gives it, whatever the task: what a study says of it."""

    @property
    def name(self) -> str:
        """One of `groupnorm.data.NAMES`."""
        ...

    @property
    def version(self) -> str:
        """Another one whenever the images change, or what is known of them."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What whoever trains on it should know, in sentences."""
        ...

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        ...

    @property
    def train_size(self) -> int:
        """The number of training images."""
        ...

    @property
    def test_size(self) -> int:
        """The number of test images."""
        ...


class TrainingData(Protocol):
    """The data that a run trains on, ready for its network, whatever the task.

    Attributes:
        name: of the data set.
        version: changes whenever what is trained or evaluated on does.
        decoders: the libraries that decode and resize its files -> their versions, of which pixels
            depend; none where all of it was read when the set was loaded.
        notes: what whoever trains on it should know, in sentences.
    """

    name: str
    version: str
    decoders: dict[str, str]
    notes: tuple[str, ...]

    def train(self, steps: Iterable[Step], rows: slice = ALL) -> Iterator[Any]:
        """The batch of every step, augmented and on the device, in the form that the task takes.

        Args:
            rows: which places of every step to make; a process makes its share.
        """
        ...

    def data_issues(self) -> Issues:
        """What is wrong with single files and belongs in the record: unreadable files."""
        ...

    def remember(self, issues: Issues) -> None:
        """Add the issues of other processes, or of this run before it was resumed.

        Raises:
            DataError: too much of the data is unreadable.
        """
        ...


class Batches(TrainingData, Protocol):
    """Training and test batches of labelled images."""

    num_classes: int
    channels: int
    train_size: int
    test_size: int
    image_size: int

    def train(self, steps: Iterable[Step], rows: slice = ALL) -> Iterator[tuple[Tensor, Tensor]]:
        """For every step its augmented, normalized images and their labels.

        Args:
            rows: which places of every step to make; a process makes its share.

        Yields:
            float32 (m, C, H, W) and int64 (m,), on the device.
        """
        ...

    def test(self, first: int = 0, every: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Every `every`-th batch of the test examples, from batch `first` on, normalized."""
        ...


def seed_of(*what: int | str) -> int:
    """A seed below 2**63 for a purpose; other words or numbers give an unrelated one."""
    digest = hashlib.sha256(" ".join(map(str, what)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator_of(*what: int | str) -> torch.Generator:
    """A generator on the CPU, seeded for a purpose."""
    return torch.Generator().manual_seed(seed_of(*what))


def epoch_order(size: int, seed: int, epoch: int) -> Tensor:
    """The order of the examples in an epoch: a permutation (size,), int64."""
    return torch.randperm(size, generator=generator_of(seed, "order", epoch))


def epoch_steps(order: Tensor, step_images: int, seed: int, epoch: int) -> list[Step]:
    """An epoch's steps of `step_images` examples each; the incomplete last one is dropped."""
    return [
        Step(seed_of(seed, "step", epoch, number), order[first : first + step_images])
        for number, first in enumerate(range(0, len(order) - step_images + 1, step_images))
    ]


def shrink(images: Tensor, size: int | None) -> Tensor:
    """Images (N, C, H, W) made `size` x `size`, smoothed; unchanged for None or no smaller size."""
    if size is None or size >= min(images.shape[2:]):
        return images
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True)
