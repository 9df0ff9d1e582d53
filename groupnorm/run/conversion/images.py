"""The images of a conversion: some to calibrate on, others held out for the comparison."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from groupnorm.data.files.class_folders import list_below, list_classes
from groupnorm.data.files.folder_images import FolderImages, spread
from groupnorm.data.issues import DataError, plural

BATCH = 32
"""Images that are decoded, and compared, at a time."""


@dataclass(frozen=True)
class SplitImages:
    """A folder's images in two parts.

    Attributes:
        calibration: what a conversion is fitted to.
        held_out: what it is measured on.
        labels: of the held-out images, where the folder has classes.
        classes: their names.
    """

    calibration: FolderImages
    held_out: FolderImages
    labels: Sequence[int] | None
    classes: Sequence[str]

    def labelled(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """The held-out images in batches, with their labels or None."""
        for images, numbers in self.held_out.numbered():
            if self.labels is None:
                yield images, None
            else:
                yield images, torch.tensor([self.labels[number] for number in numbers])

    def unreadable(self) -> dict[str, str]:
        """What is wrong with the files met so far that cannot be decoded."""
        return {**self.calibration.unreadable, **self.held_out.unreadable}


def split_images(
    folder: Path,
    count: int,
    held_out: int,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    with_classes: bool = False,
) -> SplitImages:
    """Images below a folder, both parts spread evenly over the sorted paths.

    A folder with fewer images than `count` and `held_out` together is divided in that proportion.

    Args:
        folder: where they are.
        count: to calibrate on.
        held_out: for the comparison.
        size: as in `FolderImages`, as what follows.
        mean: see `size`.
        std: see `size`.
        with_classes: the folders in it are classes; their labels follow their sorted names.

    Raises:
        ValueError: a number is below 1.
        DataError: there are fewer than three images, or as `list_classes`.
    """
    if count < 1 or held_out < 1:
        raise ValueError(
            f"expected at least 1 image to calibrate on and 1 held out, got {count} and {held_out}"
        )
    classes: list[str] = []
    if with_classes:
        found = list_classes(folder)
        listing, classes, notes = found.listing, found.classes, found.notes()
    else:
        paths, notes = list_below(folder)
        listing = [(path, 0) for path in paths]
    chosen = spread(listing, count + held_out)
    if len(chosen) < 3:
        raise DataError(f"{folder} has {plural(len(chosen), 'image')}; expected 3 at least")
    measured = max(1, round(len(chosen) * held_out / (count + held_out)))
    kept = set(spread(range(len(chosen)), min(measured, len(chosen) - 2)))
    calibration, measured_on = (
        FolderImages(
            [path for number, (path, _) in enumerate(chosen) if (number in kept) == held],
            size, batch=BATCH, mean=mean, std=std, notes=notes,
        )
        for held in (False, True)
    )  # fmt: skip
    labels = [label for number, (_, label) in enumerate(chosen) if number in kept]
    return SplitImages(calibration, measured_on, labels if with_classes else None, classes)
