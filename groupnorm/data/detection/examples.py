"""One image with its objects, as a detector gets it: read, resized as in the paper, mirrored."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from groupnorm.data.detection.annotations import AnnotatedImage, Annotation, Split
from groupnorm.data.detection.rle import Mask
from groupnorm.data.detection.targets import Target
from groupnorm.data.files.decode import UnreadableError, read_rgb
from groupnorm.data.issues import DataError


class Size(NamedTuple):
    """The size that images are resized to.

    Attributes:
        short_side: pixels of the short side; None leaves every image as it is.
        long_side: of the long side at most; the short side then gets fewer.
    """

    short_side: int | None
    long_side: int

    def of(self, height: int, width: int) -> tuple[int, int]:
        """Height and width, of at least one pixel, that an image of this size is resized to."""
        if self.short_side is None:
            return height, width
        scale = min(self.short_side / min(height, width), self.long_side / max(height, width))
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def read_image(split: Split, index: int, size: Size) -> tuple[Tensor, bool]:
    """The `resized` image and whether it had to be converted to RGB.

    Raises:
        UnreadableError: it cannot be decoded, or has another size than the annotation file says.
        DataError: the file cannot be opened.
    """
    entry = split.images[index]
    image, converted = read_rgb(split.path(index))
    if image.size != (entry.width, entry.height):
        raise UnreadableError(
            f"the file has {image.width} x {image.height} pixels, {split.file.name} says "
            f"{entry.width} x {entry.height}"
        )
    return resized(image, size), converted


def resized(image: Image.Image, size: Size) -> Tensor:
    """An RGB image resized bilinearly, smoothed where it shrinks: uint8 (3, h, w)."""
    height, width = size.of(image.height, image.width)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())


def make_target(split: Split, index: int, size: Size) -> tuple[Target, dict[int, str]]:
    """The objects of an image, resized with it, without crowds.

    An object whose mask has no pixel in the image is left out.

    Returns:
        the objects, and what is wrong with those that are left out, by annotation id.

    Raises:
        DataError: polygons that are too large to be drawn.
    """
    entry = split.images[index]
    height, width = size.of(entry.height, entry.width)
    kept: list[Annotation] = []
    masks: list[Mask] = []
    empty: dict[int, str] = {}
    for annotation in entry.objects:
        if split.masks:
            mask = draw_mask(split, entry, annotation)
            if not mask.any():
                empty[annotation.id] = "its mask is empty"
                continue
            masks.append(_nearest(mask, height, width))
        kept.append(annotation)
    shape = (len(kept), height, width) if split.masks else (len(kept), 0, 0)
    corners = [annotation.corners(entry.height, entry.width) for annotation in kept]
    boxes = torch.tensor(corners, dtype=torch.float64).view(-1, 4)
    scale = (width / entry.width, height / entry.height) * 2
    target = Target(
        boxes=(boxes * torch.tensor(scale, dtype=torch.float64)).float(),
        labels=torch.tensor([annotation.label for annotation in kept], dtype=torch.int64),
        masks=torch.from_numpy(np.stack(masks) if masks else np.zeros(shape, np.uint8)),
        image_id=entry.id,
        original_size=(entry.height, entry.width),
    )
    return target, empty


def draw_mask(split: Split, entry: AnnotatedImage, annotation: Annotation) -> Mask:
    """An annotation's mask, uint8 (H, W), in the size of the image's file.

    Raises:
        DataError: polygons that are too large to be drawn.
    """
    try:
        return annotation.mask(entry.height, entry.width)
    except ValueError as error:
        raise DataError(f"{split.file}: annotation {annotation.id}: {error}") from None


def mirrored(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """Image, boxes and masks mirrored left to right."""
    x0, y0, x1, y1 = target["boxes"].unbind(1)
    width = image.shape[2]
    boxes = torch.stack([width - x1, y0, width - x0, y1], dim=1)
    return image.flip(2), {**target, "boxes": boxes, "masks": target["masks"].flip(2)}


def _nearest(mask: Mask, height: int, width: int) -> Mask:
    """A mask resized: each pixel is that of the old one in which its centre lies."""
    if mask.shape == (height, width):
        return mask
    rows = (np.arange(height) + 0.5) * (mask.shape[0] / height)
    columns = (np.arange(width) + 0.5) * (mask.shape[1] / width)
    return np.asarray(mask[rows.astype(np.intp)][:, columns.astype(np.intp)])
