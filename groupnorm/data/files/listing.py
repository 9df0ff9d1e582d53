"""ImageFiles: a classification data set as lists of image files with their labels."""

from __future__ import annotations

import hashlib
import itertools
import os
import stat
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self, TypeVar

import torch
from torch import Tensor

from groupnorm.data.batches import generator_of
from groupnorm.data.issues import DataError
from groupnorm.data.validation import hold_out_rows, validation_note

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

        root: the folder that paths are shown relative to; "" shows them as they are.
        notes: what whoever trains on it should know, in sentences: files that were left out, and
            classes without test images.

    Raises:
        DataError: an empty split, a single class, labels of the wrong type or number, or out of
            range.
    """

    noun: ClassVar[str] = "image"
    """What the files are."""

    name: str
    version: str
    train_paths: tuple[str, ...]
    train_labels: Tensor
    test_paths: tuple[str, ...]
    test_labels: Tensor
    class_names: tuple[str, ...]
    root: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for split in ("train", "test"):
            paths: tuple[str, ...] = getattr(self, f"{split}_paths")
            labels: Tensor = getattr(self, f"{split}_labels")
            what = f"{self.name}, {split}"
            if not paths:
                raise DataError(f"{what}: expected at least one {self.noun}, got none")
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
        if self.num_classes < 2:
            raise DataError(
                f"{self.name} in {self.root} has a single class, {self.class_names[0]}; a "
                f"classifier needs two at least, a folder of {self.noun}s for each"
            )

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
        """The number of channels of every decoded image: 3."""
        return 3

    def sample_train(self, count: int | None) -> Self:
        """The same with a sample of `count` training images only; None for all.

        The sample has the same share of every class, to rounding. It depends on the list and on
        `count` alone, and a larger sample holds the smaller ones.

        Raises:
            ValueError: there are fewer.
        """
        if count is None:
            return self
        if count > len(self.train_paths):
            raise ValueError(
                f"train_images={count}, but {self.name} has {len(self.train_paths)} of them"
            )
        # Each image gets a place in (0, 1) in its class, in random order: those below a limit are
        # the same share of every class.
        generator = generator_of("sample of the training images")
        size = len(self.train_paths)
        ranks = torch.empty(size, dtype=torch.float64)
        for label in range(self.num_classes):
            (members,) = torch.where(self.train_labels == label)
            order = torch.randperm(len(members), generator=generator)
            ranks[members] = (order.double() + 0.5) / max(1, len(members))
        ties = torch.randperm(size, generator=generator)  # between classes of the same size
        chosen = ties[ranks[ties].argsort(stable=True)[:count]].sort().values
        return replace(
            self,
            train_paths=tuple(self.train_paths[i] for i in chosen.tolist()),
            train_labels=self.train_labels[chosen],
        )

    def hold_out(self, count: int | None) -> Self:
        """The same with `count` training images in place of the test images; None changes nothing.

        They are chosen at random, and depend on the list and on `count` alone.

        Raises:
            ValueError: so many cannot be held out.
        """
        if count is None:
            return self
        size = len(self.train_paths)
        candidates = torch.randperm(size, generator=generator_of("held-out images"))
        kept, held = hold_out_rows(
            self.train_labels, candidates, count, self.name, self.class_names
        )
        return replace(
            self,
            train_paths=tuple(self.train_paths[i] for i in kept.tolist()),
            train_labels=self.train_labels[kept],
            test_paths=tuple(self.train_paths[i] for i in held.tolist()),
            test_labels=self.train_labels[held],
            notes=(*self.notes, validation_note(count, f"{self.noun}s")),
        )

    def shown(self, path: str) -> str:
        """A file's path as records have it: relative to `root`, and valid UTF-8."""
        relative = os.path.relpath(path, self.root) if self.root else path
        return _utf8(Path(relative).as_posix())

    def present(self, names: Set[str]) -> Set[str]:
        """Those of `names`, as `shown` gives them, that are images of this data set."""
        if not names:
            return names
        last_parts = {name.rpartition("/")[2] for name in names}
        paths = itertools.chain(self.train_paths, self.test_paths)
        # `shown` takes ten seconds for a million paths
        return names & {self.shown(p) for p in paths if _utf8(os.path.basename(p)) in last_parts}


F = TypeVar("F", bound=ImageFiles)


def list_files(
    name: str,
    root: Path,
    train: Listing,
    test: Listing,
    class_names: Sequence[str],
    notes: Sequence[str] = (),
    kind: type[F] = ImageFiles,  # type: ignore[assignment]
) -> F:
    """The data set of two listings, with the version that follows from them.

    Args:
        name: the data set's name.
        root: its folder. Where it lies does not change the version.
        train: path and label of every training image.
        test: likewise.
        class_names: one name per class, in the order of the labels.
        notes: as in `ImageFiles`.
        kind: of the files.

    Raises:
        DataError: a file is missing or is not a regular file; and what `ImageFiles` refuses.
    """
    digest = hashlib.sha256(repr(tuple(class_names)).encode())
    for split, listing in (("train", train), ("test", test)):
        for path, label in listing:
            entry = f"\n{split}\0{label}\0{_size(path)}\0".encode()
            digest.update(entry + os.fsencode(Path(os.path.relpath(path, root)).as_posix()))
    return kind(
        name=name,
        version=digest.hexdigest()[:16],
        train_paths=tuple(path for path, _ in train),
        train_labels=torch.tensor([label for _, label in train], dtype=torch.int64),
        test_paths=tuple(path for path, _ in test),
        test_labels=torch.tensor([label for _, label in test], dtype=torch.int64),
        class_names=tuple(class_names),
        root=str(root),
        notes=tuple(notes),
    )


def _utf8(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _size(path: str) -> int:
    """Bytes of a regular file; a pipe or a device would stop whoever reads it."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path} is not a regular file; remove it from the data set")
    return status.st_size
