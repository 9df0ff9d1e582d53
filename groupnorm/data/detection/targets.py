"""What a detector reads: images, their objects in torchvision's form, and the categories."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol, TypedDict

from torch import Tensor

from groupnorm.data.batches import ALL, Step
from groupnorm.data.issues import DataError, Issues


class Target(TypedDict):
    """The objects of one image, in the form of torchvision's detectors.

    Attributes:
        boxes: float32 (n, 4), x0 y0 x1 y1 in pixels of the image in the batch, inside it, at least
            one pixel wide and high before the image was resized. (0, 4) where there are none.
        labels: int64 (n,), 1 to K: 0 is the background.
        masks: uint8 (n, H, W), 1 inside; (n, 0, 0) of a data set that is read without masks.
        image_id: the image's id in the annotation file.
        original_size: height and width of the image in its file, in pixels; evaluation is done at
            this size.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor
    image_id: int
    original_size: tuple[int, int]


class DetectionBatch(NamedTuple):
    """Some images and their objects.

    Attributes:
        images: float32 (3, H, W) each, RGB in [0, 1]: resized, not normalized, not padded, of any
            size. The model normalizes with its own mean and standard deviation.
        targets: one for each image.
    """

    images: list[Tensor]
    targets: list[Target]


@dataclass(frozen=True)
class Categories:
    """The one place where category ids become labels 1 to K, and labels become category ids.

    Labels follow the ids in ascending order, whatever holes the ids have.

    Attributes:
        ids: of the categories in the annotation file, K of them, ascending.
        names: one for each.
        supercategories: one for each; "" where the file has none.

    Raises:
        DataError: no categories, ids that do not ascend, or another number of names.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]
    supercategories: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.ids or list(self.ids) != sorted(set(self.ids)):
            raise DataError(f"expected ascending category ids, at least one, got {self.ids}")
        if not len(self.ids) == len(self.names) == len(self.supercategories):
            raise DataError(
                f"expected a name and a supercategory for each of {len(self.ids)} categories, got "
                f"{len(self.names)} and {len(self.supercategories)}"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def label(self, category_id: int) -> int:
        """The label, 1 to K, of a category.

        Raises:
            KeyError: there is no such category.
        """
        return self._labels[category_id]

    def id(self, label: int) -> int:
        """The category id of a label.

        Raises:
            ValueError: a label that is not 1 to K.
        """
        self._check(label)
        return self.ids[label - 1]

    def name(self, label: int) -> str:
        """The name of a label's category.

        Raises:
            ValueError: a label that is not 1 to K.
        """
        self._check(label)
        return self.names[label - 1]

    @cached_property
    def _labels(self) -> dict[int, int]:
        return {category_id: label for label, category_id in enumerate(self.ids, 1)}

    def _check(self, label: int) -> None:
        if not 1 <= label <= len(self.ids):
            raise ValueError(f"expected a label from 1 to {len(self.ids)}, got {label}")


class DetectionBatches(Protocol):
    """Training and test batches of a detection data set.

    Attributes:
        num_classes: K, without the background.
        train_size: training images with at least one object: the others are not trained on.
        test_size: test images, with or without objects.
    """

    name: str
    version: str
    categories: Categories
    num_classes: int
    channels: int
    train_size: int
    test_size: int
    notes: tuple[str, ...]

    def order(self, seed: int, epoch: int, batch_per_worker: int) -> Tensor:
        """The order of the training examples in an epoch, for `groupnorm.data.batches.epoch_steps`.

        Every `batch_per_worker` consecutive ones are all wide or all high, so that what one worker
        pads is small. Examples that are left over are not in it. Its length is that of every epoch.

        Returns:
            int64 (n,), n <= train_size, a multiple of `batch_per_worker`.
        """
        ...

    def train(self, steps: Iterable[Step], rows: slice = ALL) -> Iterator[DetectionBatch]:
        """For every step its augmented images and their objects, on the device.

        Args:
            rows: which places of every step to make; a process makes its share. An image depends
                on the step's seed and on its place in the step alone.
        """
        ...

    def test(self, first: int = 0, every: int = 1) -> Iterator[DetectionBatch]:
        """Every `every`-th batch of the test images, from batch `first` on, on the device."""
        ...

    def data_issues(self) -> Issues:
        """What is wrong with single files and annotations, and belongs in the record."""
        ...

    def remember(self, issues: Issues) -> None:
        """Add the issues of other processes, or of this run before it was resumed.

        Raises:
            DataError: too much of the data is unreadable.
        """
        ...
