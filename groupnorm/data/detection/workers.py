"""What the worker processes do: images and objects of one step or one test batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor
from torch.utils.data import Dataset

from groupnorm.data.detection.annotations import Split
from groupnorm.data.detection.examples import Size, make_target, mirrored, read_image
from groupnorm.data.detection.grouping import is_wide
from groupnorm.data.detection.targets import Target
from groupnorm.data.files.decode import UnreadableError
from groupnorm.data.issues import DataError

MOST_UNREADABLE = 1000  # files one after another; more is a broken disk


class Shard(NamedTuple):
    """A process's part of a step: images of a split, and whether each is mirrored."""

    indices: Sequence[int]
    flips: Sequence[bool]


class Loaded(NamedTuple):
    """What comes back: tensors, and the issues of single files and annotations.

    Attributes:
        images: uint8 (3, h, w) each.
        targets: one for each image.
        unreadable: indices of files that could not be decoded -> what is wrong with them.
        converted: indices of files that were not RGB.
        empty: annotation ids of objects that were left out -> what is wrong with them.
        failure: the message of a DataError, or nothing.
    """

    images: list[Tensor]
    targets: list[Target]
    unreadable: dict[int, str]
    converted: list[int]
    empty: dict[int, str]
    failure: str = ""


class Examples(Dataset[Loaded]):
    """Images of a split with their objects.

    Args:
        split: what to read.
        size: what images are resized to.
        in_memory: decode all images now, and keep them.
    """

    def __init__(self, split: Split, size: Size, in_memory: bool) -> None:
        self.split, self.size = split, size
        self.kept: dict[int, tuple[Tensor, bool]] = {}
        for index in range(len(split.images)) if in_memory else ():
            try:
                self.kept[index] = read_image(split, index, size)
            except UnreadableError:
                continue  # read again when it is asked for, which fails again

    def add(self, made: Loaded, index: int, flip: bool) -> bool:
        """Add an image to a batch; False when it cannot be decoded."""
        try:
            image, converted = self.kept.get(index) or read_image(self.split, index, self.size)
        except UnreadableError as error:
            made.unreadable[index] = str(error)
            return False
        target, empty = make_target(self.split, index, self.size)
        if flip:
            image, target = mirrored(image, target)
        made.images.append(image)
        made.targets.append(target)
        made.empty.update(empty)
        if converted:
            made.converted.append(index)
        return True


class TrainExamples(Examples):
    """Training images; the item of a `Shard`. One that cannot be decoded is replaced."""

    def __init__(self, split: Split, size: Size, in_memory: bool) -> None:
        super().__init__(split, size, in_memory)
        self.wide = is_wide(split.images)

    def __getitem__(self, shard: Shard) -> Loaded:
        made = Loaded([], [], {}, [], {})
        try:
            for index, flip in zip(shard.indices, shard.flips, strict=True):
                if not any(self.add(made, candidate, flip) for candidate in self._from(index)):
                    raise DataError(
                        f"{self.split.path(index)} and the training images after it cannot be "
                        f"decoded, {len(made.unreadable):,} one after another: "
                        f"{made.unreadable[index]}. The data set is damaged: get it again"
                    )
        except DataError as error:
            return made._replace(failure=str(error))
        return made

    def _from(self, index: int) -> Iterator[int]:
        """`index`, then those after it that are trained on and have its orientation."""
        yield index
        others = self.split.with_objects
        start = others.index(index) + 1
        ordered = [*others[start:], *others[: start - 1]][: MOST_UNREADABLE - 1]
        yield from (other for other in ordered if self.wide[other] == self.wide[index])


class EvaluationExamples(Examples):
    """Test images without those that cannot be decoded; the item of a sequence of indices."""

    def __getitem__(self, indices: Sequence[int]) -> Loaded:
        made = Loaded([], [], {}, [], {})
        try:
            for index in indices:
                self.add(made, index, flip=False)
        except DataError as error:
            return made._replace(failure=str(error))
        return made
