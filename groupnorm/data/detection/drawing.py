"""Boxes, masks and names of objects, drawn on their image."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from groupnorm.data.detection import rle
from groupnorm.data.detection.rle import Mask

Pixels = NDArray[np.uint8]
Color = tuple[int, int, int]
_Rectangle = tuple[float, float, float, float]
_OPACITY = 0.45  # of a mask
_GOLDEN_RATIO = 0.618034
_MARGIN = 2  # pixels left and right of a text
_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)


@dataclass(frozen=True, eq=False, slots=True)
class DrawnObject:
    """An object as it is drawn.

    Attributes:
        box: x0 y0 x1 y1 in pixels of the image.
        color: red, green and blue (`color_of`).
        text: beside the box; none for "".
        mask: uint8 (H, W), 1 inside; None draws none.
    """

    box: tuple[float, float, float, float]
    color: Color
    text: str = ""
    mask: Mask | None = None


def color_of(number: int) -> Color:
    """The colour of a category, counted from 0: bright, and unlike those of its neighbours."""
    hue = (number * _GOLDEN_RATIO) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75 if number % 2 else 0.95, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def drawn_object(
    entry: Mapping[str, Any], categories: Sequence[str], height: int, width: int
) -> DrawnObject:
    """An object as records and `groupnorm detect --json` have it, ready to be drawn.

    Args:
        entry: `category`, `box`, `mask` (an RLE of COCO, or None) and, of one that was predicted,
            `score`.
        categories: all names, whose order gives the colours.
        height: of the image, in pixels.
        width: of the image, in pixels.

    Raises:
        ValueError: an unknown category, or a mask that is damaged or of another size.
    """
    name, score, mask = entry["category"], entry.get("score"), entry["mask"]
    if name not in categories:
        raise ValueError(f"unknown category {name!r}; known: {', '.join(categories)}")
    if mask is not None:
        mask = rle.decode(rle.parse(mask, height, width), height, width)
    return DrawnObject(
        box=tuple(entry["box"]),
        color=color_of(categories.index(name)),
        text=name if score is None else f"{name} {score:.2f}",
        mask=mask,
    )


def draw_objects(image: Pixels, objects: Sequence[DrawnObject], enlarge: int = 1) -> Pixels:
    """An image with objects drawn on it; the first of them lies on top.

    Boxes have a dark edge, so that they stand out from light images as from dark ones, and texts
    are black or white on the colour of their box. Lines and letters grow with the drawing.

    Args:
        image: RGB, uint8 (H, W, 3); it stays as it is.
        enlarge: the drawing has so many times the width and the height, so that names can be read
            on a small image.

    Returns:
        uint8 (enlarge * H, enlarge * W, 3).

    Raises:
        ValueError: a mask of another size than the image, or `enlarge` below 1.
    """
    if enlarge < 1:
        raise ValueError(f"enlarge must be at least 1, got {enlarge}")
    canvas = _with_masks(image, objects).repeat(enlarge, axis=0).repeat(enlarge, axis=1)
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    short = min(picture.size)
    line = max(1, round(short / 200))
    for one in reversed(objects):
        _draw_box(draw, _scaled(one.box, enlarge), one.color, line)
    font = ImageFont.load_default(max(11, short / 28))
    taken: list[_Rectangle] = []
    for one in objects:
        if one.text:
            behind = _text_rectangle(draw, font, one, enlarge, picture.size, taken)
            taken.append(behind)
            draw.rectangle(behind, fill=one.color)
            corner = behind[0] + _MARGIN, behind[1]
            draw.text(corner, one.text, fill=_ink_on(one.color), font=font)
    return np.asarray(picture)


def _with_masks(image: Pixels, objects: Sequence[DrawnObject]) -> Pixels:
    pixels = image.copy()
    for one in reversed(objects):
        if one.mask is None:
            continue
        if one.mask.shape != image.shape[:2]:
            raise ValueError(
                f"expected a mask of {image.shape[0]} x {image.shape[1]} pixels like the image, "
                f"got {one.mask.shape[0]} x {one.mask.shape[1]}"
            )
        inside = one.mask.astype(np.bool_)
        blended = (1 - _OPACITY) * pixels[inside] + _OPACITY * np.array(one.color)
        pixels[inside] = np.rint(blended).astype(np.uint8)
    return pixels


def _scaled(box: _Rectangle, enlarge: int) -> _Rectangle:
    """A box in pixels of the drawing, as the first and last pixels of its edges."""
    x0, y0, x1, y1 = (enlarge * value for value in box)
    return x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)


def _draw_box(draw: ImageDraw.ImageDraw, box: _Rectangle, color: Color, line: int) -> None:
    x0, y0, x1, y1 = box
    around = (x0 - line, y0 - line, x1 + line, y1 + line)
    draw.rectangle(around, outline=_BLACK, width=line)
    draw.rectangle(box, outline=color, width=line)


def _text_rectangle(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    one: DrawnObject,
    enlarge: int,
    size: tuple[int, int],
    taken: Sequence[_Rectangle],
) -> _Rectangle:
    """What a text fills: above its box, in it or below, the first that is free in the drawing."""
    x0, y0, _, y1 = _scaled(one.box, enlarge)
    _, _, width, height = draw.textbbox((0, 0), one.text, font=font)
    width += 2 * _MARGIN
    left = max(0.0, min(x0, size[0] - 1 - width))
    rectangles = [
        (left, top, left + width, top + height)
        for top in (y0 - height, y0, y1 - height, y1)
        if top >= 0 and top + height < size[1]
    ]
    free = [inside for inside in rectangles if not any(_overlap(inside, used) for used in taken)]
    return next(iter([*free, *rectangles]), (left, 0.0, left + width, height))


def _overlap(one: _Rectangle, other: _Rectangle) -> bool:
    beside = one[2] <= other[0] or other[2] <= one[0]
    return not (beside or one[3] <= other[1] or other[3] <= one[1])


def _ink_on(color: Color) -> Color:
    """Black or white, whichever is easier to read on a colour."""
    red, green, blue = color
    return _BLACK if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else _WHITE
