"""The images of a conversion: some to calibrate on, others held out for the comparison."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from groupnorm.conversion.with_data import fewest_samples_for
from groupnorm.counts import counted
from groupnorm.data.files.class_folders import list_below, list_classes
from groupnorm.data.files.folder_images import FolderImages, spread
from groupnorm.data.issues import DataError, first_few, some_files
from groupnorm.run.conversion.memory import check_memory

BATCH = 32
"""Images in a batch, at most; fewer where they are large."""
FEWEST = (6, 2)
"""Images to calibrate on, and held out: with less nothing is done. `convert` may need more."""
FEW = (32, 16)
"""Images to calibrate on, and held out: with less a note says what that means."""
_LARGE = 512  # side in pixels from which on batches are smaller
_SMALLEST_PART = 5  # a part of a small folder has one in so many of its images, or what is asked
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
        digest: of the names and the pixels of the images of both parts, in hexadecimal.
        unreadable: path -> what is wrong with it, of the files that cannot be decoded.
        notes: on the folder, the division and what is left out, in sentences.
    """

    calibration: list[Tensor]
    held_out: list[Tensor]
    labels: Sequence[int] | None
    classes: Sequence[str]
    paths: tuple[Sequence[str], Sequence[str]]
    digest: str
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
    to: str,
    with_classes: bool = False,
) -> SplitImages:
    """Images below a folder, both parts spread evenly over the sorted paths.

    An image that cannot be decoded, or has the pixels of another one, is left out, and the folder's
    other images are drawn on in the same way until there are enough. A folder with fewer images
    than `count` and `held_out` together is divided in that proportion, but neither part gets less
    than a fifth of them.

    Args:
        folder: where they are.
        count: to calibrate on.
        held_out: for the comparison.
        size: as in `FolderImages`, as what follows.
        mean: see `size`.
        std: see `size`.
        to: the norm that the network is converted to.
        with_classes: the folders in it are classes; their labels follow their sorted names.

    Raises:
        ValueError: a number is below those of `FEWEST` or what `convert` needs for the norm, or
            images of this size do not fit in memory.
        DataError: too few different images can be decoded, or as `list_classes`.
    """
    fewest = (max(FEWEST[0], fewest_samples_for(to)), FEWEST[1])
    if count < fewest[0] or held_out < fewest[1]:
        raise ValueError(
            f"expected at least {fewest[0]} images to calibrate on and {fewest[1]} held out, got "
            f"{count} and {held_out}"
        )
    classes: list[str] = []
    if with_classes:
        found = list_classes(folder)
        listing, classes, notes = found.listing, found.classes, found.notes()
    else:
        paths, notes = list_below(folder)
        listing = [(path, 0) for path in paths]
    expected = f"{sum(fewest)} at least, {fewest[0]} to calibrate on and {fewest[1]} held out"
    if len(listing) < sum(fewest):
        raise DataError(f"{folder} has {counted(len(listing), 'image')}; expected {expected}")
    check_memory(min(len(listing), count + held_out), size)
    files = FolderImages([path for path, _ in listing], size, mean=mean, std=std)
    different, copies = _different(files, count + held_out)
    notes = [*notes, *_notes_on_files(files, copies)]
    if not different:
        raise DataError(
            f"none of {len(listing):,} images can be decoded: {some_files(files.unreadable)}"
        )
    if len(different) < sum(fewest):
        raise DataError(
            f"{folder} has {counted(len(different), 'different image')} that can be decoded; "
            f"expected {expected}" + "".join(f". {note}" for note in notes)
        )
    chosen = [listing[one.number] for one in different]
    images = {i: one.image for i, one in enumerate(different)}
    digests = [one.digest for one in different]
    del different  # the batches take the images out, one after the other
    kept = set(spread(range(len(images)), _measured(len(images), count, held_out, fewest)))
    parts = [[i for i in range(len(images)) if (i in kept) == held] for held in (False, True)]
    notes += _notes_on_parts(len(images), count, held_out, (len(parts[0]), len(parts[1])))
    notes += _notes_on_likeness(torch.stack([_thumbnail(image) for image in images.values()]))
    batches = [_batches(images, part) for part in parts]
    paths_of = [[chosen[i][0] for i in part] for part in parts]
    labels = [chosen[i][1] for i in parts[1]]
    named = [
        [(os.path.relpath(chosen[i][0], folder), digests[i].hex()) for i in part] for part in parts
    ]
    digest = hashlib.sha256(json.dumps(named).encode()).hexdigest()
    return SplitImages(
        batches[0], batches[1], labels if with_classes else None, classes,
        (paths_of[0], paths_of[1]), digest, files.unreadable, notes,
    )  # fmt: skip


class _Found(NamedTuple):
    """An image (3, S, S), its number among the files, and the digest of its pixels."""

    number: int
    image: Tensor
    digest: bytes


def _different(files: FolderImages, wanted: int) -> tuple[list[_Found], list[str]]:
    """Different images in the order of the files, and the paths of others equal to them.

    As many as are wanted, spread over the files. For those that are left out others are drawn,
    spread over the files that are left.
    """
    found: dict[bytes, _Found] = {}
    copies: list[str] = []
    left = list(range(len(files.paths)))
    while left and len(found) < wanted:
        drawn = spread(left, wanted - len(found))
        left = sorted(set(left).difference(drawn))
        for number in drawn:
            image = files.read(files.paths[number])
            if image is None:
                continue
            digest = hashlib.sha256(image.numpy().tobytes()).digest()
            if digest in found:
                copies.append(files.paths[number])
            else:
                found[digest] = _Found(number, image, digest)
    return sorted(found.values(), key=lambda one: one.number), copies


def _measured(images: int, count: int, held_out: int, fewest: tuple[int, int]) -> int:
    """How many of the images are held out."""
    if images >= count + held_out:
        return held_out
    share = round(images / _SMALLEST_PART)
    least = min(held_out, max(fewest[1], share))
    most = images - min(count, max(fewest[0], share))
    return min(max(round(images * held_out / (count + held_out)), least), most)


def _notes_on_files(files: FolderImages, copies: Sequence[str]) -> list[str]:
    notes = []
    if files.unreadable:
        what = f"{counted(len(files.unreadable), 'image')} that cannot be decoded"
        notes.append(f"left out: {what}: {some_files(files.unreadable)}")
    if copies:
        names = first_few([os.path.basename(path) for path in copies], 3)
        notes.append(
            f"left out: {counted(len(copies), 'image')} with the pixels of others: {names}"
        )
    return notes


def _notes_on_parts(images: int, count: int, held_out: int, parts: tuple[int, int]) -> list[str]:
    notes = []
    if images < count + held_out:
        notes.append(
            f"there are {images:,} different images, not {count:,} to calibrate on and "
            f"{held_out:,} others to hold out: {parts[0]:,} and {parts[1]:,} are taken"
        )
    if parts[0] < FEW[0]:
        notes.append(
            f"only {parts[0]} images to calibrate on: expect larger errors on other images; 64 to "
            "256 are enough for most networks"
        )
    if parts[1] < FEW[1]:
        notes.append(
            f"only {parts[1]} images are held out: each changes a percentage by "
            f"{100 / parts[1]:.0f} points"
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
        f"{alike:,} of {counted(len(thumbnails), 'image')} look nearly like earlier ones, as "
        "frames of a video do: results on these say little about other images"
    ]


def _batches(images: dict[int, Tensor], part: Sequence[int]) -> list[Tensor]:
    """Batches of some images, which are taken out, so that nothing is in memory twice."""
    size = images[part[0]].shape[-1]
    most = max(1, min(BATCH, BATCH * _LARGE**2 // size**2))
    return [
        torch.stack([images.pop(number) for number in part[i : i + most]])
        for i in range(0, len(part), most)
    ]
