"""ImageFiles: a classification data set as lists of image files with their labels."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from groupnorm.data.image_set import DataError

Listing = Sequence[tuple[str, int]]  # path and label of every image of a split


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """A data set on disk, whose images are decoded when they are needed.

    Attributes:
        name: one of `groupnorm.data.NAMES`.
        version: changes whenever the list of files, their sizes, labels or classes change.
        train_paths: the training images, N of them. They may be of any size, grey or broken.
        train_labels: int64 (N,), in [0, num_classes).
        test_paths: the test images, M of them.
        test_labels: int64 (M,).
        class_names: one name per class.

    Raises:
        DataError: an empty split, labels of the wrong type or number, or out of range.
    """

    name: str
    version: str
    train_paths: tuple[str, ...]
    train_labels: Tensor
    test_paths: tuple[str, ...]
    test_labels: Tensor
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        for split in ("train", "test"):
            paths: tuple[str, ...] = getattr(self, f"{split}_paths")
            labels: Tensor = getattr(self, f"{split}_labels")
            what = f"{self.name}, {split}"
            if not paths:
                raise DataError(f"{what}: expected at least one image, got none")
            if labels.dtype != torch.int64 or labels.shape != (len(paths),):
                raise DataError(
                    f"{what}: expected {len(paths)} int64 labels, "
                    f"got {labels.dtype} {tuple(labels.shape)}"
                )
            low, high = int(labels.min()), int(labels.max())
            if low < 0 or high >= self.num_classes:
                raise DataError(
                    f"{what}: expected labels from 0 to {self.num_classes - 1}, got {low} to {high}"
                )

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def channels(self) -> int:
        """The number of channels of every decoded image: 3."""
        return 3

    def first_train(self, count: int | None) -> ImageFiles:
        """The same with the first `count` training images only; None for all.

        Raises:
            ValueError: there are fewer.
        """
        if count is None:
            return self
        if count > len(self.train_paths):
            raise ValueError(
                f"train_images={count}, but {self.name} has {len(self.train_paths)} of them"
            )
        return replace(
            self, train_paths=self.train_paths[:count], train_labels=self.train_labels[:count]
        )


def list_files(
    name: str, root: Path, train: Listing, test: Listing, class_names: Sequence[str]
) -> ImageFiles:
    """The data set of two listings, with the version that follows from them.

    Args:
        name: the data set's name.
        root: its folder. Where it lies does not change the version.
        train: path and label of every training image.
        test: likewise.
        class_names: one name per class, in the order of the labels.

    Raises:
        DataError: a file is missing or is not a regular file; and what `ImageFiles` refuses.
    """
    digest = hashlib.sha256(repr(tuple(class_names)).encode())
    for split, listing in (("train", train), ("test", test)):
        for path, label in listing:
            entry = f"\n{split}\0{label}\0{_size(path)}\0".encode()
            digest.update(entry + os.fsencode(Path(os.path.relpath(path, root)).as_posix()))
    return ImageFiles(
        name=name,
        version=digest.hexdigest()[:16],
        train_paths=tuple(path for path, _ in train),
        train_labels=torch.tensor([label for _, label in train], dtype=torch.int64),
        test_paths=tuple(path for path, _ in test),
        test_labels=torch.tensor([label for _, label in test], dtype=torch.int64),
        class_names=tuple(class_names),
    )


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in `folder`, sorted.

    Raises:
        DataError: `folder` cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error.strerror}") from error


def _size(path: str) -> int:
    """Bytes of a regular file; a pipe or a device would stop whoever reads it."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path} is not a regular file; remove it from the data set")
    return status.st_size
