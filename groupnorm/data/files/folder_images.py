"""folder_images: the images of any folder, prepared for a pretrained network, without labels."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from torchvision.transforms import v2

from groupnorm.data.files.class_folders import list_below
from groupnorm.data.files.decode import UnreadableError, read_rgb
from groupnorm.data.files.transforms import MEAN, STD, evaluation_transform
from groupnorm.data.issues import DataError, some_files

T = TypeVar("T")


def folder_images(
    folder: str | os.PathLike[str],
    count: int = 256,
    size: int = 224,
    *,
    batch: int = 32,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> FolderImages:
    """Images anywhere below a folder, in batches as `groupnorm.convert` takes them for `data`.

    Args:
        folder: what counts as an image in it, and how hidden files and links are treated, is
            written in docs/data.md under `imagefolder`.
        count: so many images at most, spread evenly over the sorted paths.
        size: as in `FolderImages`, like what follows.
        batch: see `size`.
        mean: see `size`.
        std: see `size`.

    Raises:
        ValueError: `count` is below 1, or as `FolderImages`.
        DataError: there are no images, or the folder cannot be read.
    """
    paths, notes = list_below(Path(folder))
    return FolderImages(spread(paths, count), size, batch=batch, mean=mean, std=std, notes=notes)


class FolderImages:
    """Batches of image files, without labels, that are decoded each time they are gone through.

    The short side is resized to size / 0.875, the centre is cut out, and each colour is
    normalized, as torchvision evaluates its networks. An image that cannot be decoded is left out.

    Args:
        paths: of the images.
        size: height and width S of the images made, in pixels.
        batch: images in a batch, at most.
        mean: of the three colours, for pixels from 0 to 1; ImageNet's by default.
        std: likewise.
        notes: on the folder, in sentences.

    Attributes:
        paths: of the images.
        unreadable: path -> what is wrong with it, of the files met so far that cannot be decoded.
        notes: on the folder.

    Raises:
        ValueError: size or batch below 1, or other than three numbers as mean and std, from 0 to 1,
            those of std above 0.
    """

    def __init__(
        self,
        paths: Sequence[str],
        size: int,
        *,
        batch: int = 32,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
        notes: Sequence[str] = (),
    ) -> None:
        if size < 1 or batch < 1:
            raise ValueError(
                f"expected size and batch of at least 1, got size={size}, batch={batch}"
            )
        for name, values in (("mean", mean), ("std", std)):
            if len(values) != 3 or not all(math.isfinite(value) for value in values):
                raise ValueError(f"expected three numbers as {name}, got {tuple(values)}")
            if not all(0 <= value <= 1 for value in values):
                shown = ", ".join(f"{value:g}" for value in values)
                divided = ", ".join(f"{value / 255:.3g}" for value in values)
                hint = (
                    f" (of pixels from 0 to 255? Here it is {divided})" if max(values) > 1 else ""
                )
                raise ValueError(
                    f"expected a {name} from 0 to 1, as of pixels in that range, got {shown}{hint}"
                )
        if min(std) <= 0:
            raise ValueError(f"expected a std above 0, got {tuple(std)}")
        self.paths, self.notes = tuple(paths), tuple(notes)
        self.unreadable: dict[str, str] = {}
        self._batch = batch
        self._prepare = evaluation_transform(size, mean, std, v2.InterpolationMode.BILINEAR)

    def __iter__(self) -> Iterator[Tensor]:
        """Batches, float32 (m, 3, S, S), in the order of the paths.

        Raises:
            DataError: no image at all can be decoded.
        """
        images: list[Tensor] = []
        for path in self.paths:
            image = self.read(path)
            if image is None:
                continue
            images.append(image)
            if len(images) == self._batch:
                yield torch.stack(images)
                images = []
        if images:
            yield torch.stack(images)
        if self.unreadable.keys() >= set(self.paths):
            raise DataError(
                f"none of {len(self.paths):,} images can be decoded: {some_files(self.unreadable)}"
            )

    def read(self, path: str) -> Tensor | None:
        """An image (3, S, S), or None where it cannot be decoded, which is noted."""
        if path in self.unreadable:
            return None
        if not os.path.isfile(path):  # reading a pipe would wait forever
            self.unreadable[path] = "no regular file"
            return None
        try:
            image: Tensor = self._prepare(read_rgb(path)[0])
            return image.contiguous()  # pictures have Pillow's order, channels last
        except (UnreadableError, DataError) as error:
            self.unreadable[path] = str(error)
            return None


def spread(items: Sequence[T], count: int) -> list[T]:
    """At most `count` of some items, in their order and spread evenly over them.

    Raises:
        ValueError: `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"expected a count of at least 1, got {count}")
    if count >= len(items):
        return list(items)
    return [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]
