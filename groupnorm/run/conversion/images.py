"""The images of a conversion: some to calibrate on, others held out for the comparison."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from groupnorm.data.files.class_folders import list_below, list_classes
from groupnorm.data.files.folder_images import FolderImages, spread
from groupnorm.data.issues import DataError, first_few, plural, some_files

BATCH = 32
"""Images in a batch, at most; fewer where they are large."""
LARGEST_SIZE = 4096
"""Side of the images in pixels."""
FEWEST = (6, 2)
"""Images to calibrate on, and held out: with less nothing is done."""
FEW = (32, 16)
"""Images to calibrate on, and held out: with less a note says what that means."""
_LARGE = 512  # side in pixels from which on batches are smaller
_SMALLEST_PART = (
    5  # a part of a folder with few images has one in so many of them, or what is asked
)
_THUMBNAIL = 8  # side in pixels, by which images are compared
_ALIKE = 0.1  # of the contrast: by less do images differ that look the same, as frames of a video


@dataclass(frozen=True)
class SplitImages:
    """Different images of a folder in two parts, decoded.

    Attributes:
        calibration: what a conversion is fitted to, batches (m, 3, S, S).
        held_out: what it is measured on, likewise.
        labels: of the held-out images, where the folder has classes.
        classes: their names.
        paths: of the images to calibrate on, and of those held out.
        unreadable: path -> what is wrong with it, of the files that cannot be decoded.
        notes: on the folder, the division and what is left out, in sentences.
    """

    calibration: list[Tensor]
    held_out: list[Tensor]
    labels: Sequence[int] | None
    classes: Sequence[str]
    paths: tuple[Sequence[str], Sequence[str]]
    unreadable: dict[str, str]
    notes: Sequence[str]

    def labelled(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """The held-out images in batches, with their labels or None."""
        first = 0
        for images in self.held_out:
            last = first + len(images)
            yield images, None if self.labels is None else torch.tensor(self.labels[first:last])
            first = last


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

    An image that cannot be decoded, or has the pixels of another one, is left out. A folder with
    fewer images than `count` and `held_out` together is divided in that proportion, but neither
    part gets less than a fifth of them.

    Args:
        folder: where they are.
        count: to calibrate on.
        held_out: for the comparison.
        size: as in `FolderImages`, as what follows.
        mean: see `size`.
        std: see `size`.
        with_classes: the folders in it are classes; their labels follow their sorted names.

    Raises:
        ValueError: a number is below those of `FEWEST`, or images of this size do not fit in
            memory.
        DataError: too few different images can be decoded, or as `list_classes`.
    """
    if count < FEWEST[0] or held_out < FEWEST[1]:
        raise ValueError(
            f"expected at least {FEWEST[0]} images to calibrate on and {FEWEST[1]} held out, got "
            f"{count} and {held_out}"
        )
    classes: list[str] = []
    if with_classes:
        found = list_classes(folder)
        listing, classes, notes = found.listing, found.classes, found.notes()
    else:
        paths, notes = list_below(folder)
        listing = [(path, 0) for path in paths]
    chosen = spread(listing, count + held_out)
    check_memory(len(chosen), size)
    files = FolderImages([path for path, _ in chosen], size, batch=1, mean=mean, std=std)
    numbers, images, copies = _different(files)
    notes = [*notes, *_notes_on_files(files, copies)]
    if len(images) < sum(FEWEST):
        raise DataError(
            f"{folder} has {plural(len(images), 'different image')} that can be decoded; expected "
            f"{sum(FEWEST)} at least, {FEWEST[0]} to calibrate on and {FEWEST[1]} held out"
            + "".join(f". {note}" for note in notes)
        )
    kept = set(spread(range(len(images)), _measured(len(images), count, held_out)))
    parts = [[i for i in range(len(images)) if (i in kept) == held] for held in (False, True)]
    notes += _notes_on_parts(len(images), count, held_out, (len(parts[0]), len(parts[1])))
    notes += _notes_on_likeness(torch.stack([_thumbnail(image) for image in images.values()]))
    batches = [_batches(images, part) for part in parts]
    paths_of = [[chosen[numbers[i]][0] for i in part] for part in parts]
    labels = [chosen[numbers[i]][1] for i in parts[1]]
    return SplitImages(
        batches[0], batches[1], labels if with_classes else None, classes,
        (paths_of[0], paths_of[1]), files.unreadable, notes,
    )  # fmt: skip


def check_memory(images: int, size: int) -> None:
    """Check that so many images (3, S, S) of single precision fit in the memory that is free.

    Raises:
        ValueError: they do not, or the size is below 1 or above `LARGEST_SIZE`.
    """
    if not 1 <= size <= LARGEST_SIZE:
        raise ValueError(
            f"expected images of 1 to {LARGEST_SIZE:,} pixels a side, got a size of {size:,}"
        )
    needed, free = images * 3 * size**2 * 4, _free_memory()
    if free is not None and needed > free:
        raise ValueError(
            f"{plural(images, 'image')} of {size:,} x {size:,} pixels take {needed / 1e9:.1f} GB, "
            f"and {free / 1e9:.1f} GB of memory are free: take smaller ones or fewer"
        )


def _free_memory() -> int | None:
    """Bytes, as Linux says, or as a container may have at most; None elsewhere."""
    found = []
    with suppress(OSError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found += [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")]
    with suppress(OSError, ValueError):  # "max" where there is no limit
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return min(found, default=None)


def _different(files: FolderImages) -> tuple[list[int], dict[int, Tensor], list[str]]:
    """The images' numbers among the files, the images, and the paths of others equal to them."""
    numbers: list[int] = []
    copies: list[str] = []
    images: dict[int, Tensor] = {}
    seen = set()
    for batch, (number,) in files.numbered():
        digest = hashlib.sha256(batch.numpy().tobytes()).digest()
        if digest in seen:
            copies.append(files.paths[number])
            continue
        seen.add(digest)
        images[len(numbers)] = batch[0]
        numbers.append(number)
    return numbers, images, copies


def _measured(images: int, count: int, held_out: int) -> int:
    """How many of the images are held out."""
    if images >= count + held_out:
        return held_out
    share = round(images / _SMALLEST_PART)
    least = min(held_out, max(FEWEST[1], share))
    most = images - min(count, max(FEWEST[0], share))
    return min(max(round(images * held_out / (count + held_out)), least), most)


def _notes_on_files(files: FolderImages, copies: Sequence[str]) -> list[str]:
    notes = []
    if files.unreadable:
        what = f"{plural(len(files.unreadable), 'image')} that cannot be decoded"
        notes.append(f"left out: {what}: {some_files(files.unreadable)}")
    if copies:
        names = first_few([os.path.basename(path) for path in copies], 3)
        notes.append(f"left out: {plural(len(copies), 'image')} with the pixels of others: {names}")
    return notes


def _notes_on_parts(images: int, count: int, held_out: int, parts: tuple[int, int]) -> list[str]:
    notes = []
    if images < count + held_out:
        notes.append(
            f"there are {images:,} different images, fewer than the {count:,} to calibrate on and "
            f"the {held_out:,} to hold out: {parts[0]:,} and {parts[1]:,} are taken"
        )
    if parts[0] < FEW[0]:
        notes.append(
            f"only {parts[0]} images to calibrate on: expect more errors on others; 64 to 256 are "
            "enough for most networks"
        )
    if parts[1] < FEW[1]:
        notes.append(
            f"only {parts[1]} images are held out: one of them is {100 / parts[1]:.0f} points of a "
            "share"
        )
    return notes


def _thumbnail(image: Tensor) -> Tensor:
    """Some numbers (K,) that are nearly equal for images that look the same."""
    return F.adaptive_avg_pool2d(image, min(_THUMBNAIL, image.shape[-1])).flatten()


def _notes_on_likeness(thumbnails: Tensor) -> list[str]:
    """What is to say where many images look like earlier ones."""
    contrast = (thumbnails - thumbnails.mean(1, keepdim=True)).square().mean(1).sqrt()
    alike = 0
    for i in range(1, len(thumbnails)):
        distance = (thumbnails[:i] - thumbnails[i]).square().mean(1).sqrt()
        alike += bool((distance < _ALIKE * contrast[i]).any())
    if alike * 4 < len(thumbnails):
        return []
    return [
        f"{alike:,} of {plural(len(thumbnails), 'image')} look nearly like earlier ones, as frames "
        "of a video do: results on these say little about other images"
    ]


def _batches(images: dict[int, Tensor], part: Sequence[int]) -> list[Tensor]:
    """Batches of some images, which are taken out, so that nothing is in memory twice."""
    size = images[part[0]].shape[-1]
    most = max(1, min(BATCH, BATCH * _LARGE**2 // size**2))
    return [
        torch.stack([images.pop(number) for number in part[i : i + most]])
        for i in range(0, len(part), most)
    ]
