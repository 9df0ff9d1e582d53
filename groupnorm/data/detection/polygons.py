"""Polygons as masks, pixel for pixel as pycocotools has them (`rleFrPoly` in maskApi.c).

The boundary is followed on a grid five times finer than the pixels. Where it passes the centre of a
column of pixels, the mask changes there, from the row it passes downwards. Only these positions
are computed, not the whole boundary: time and memory follow from the columns that an edge passes,
however far the coordinates lie outside of the image.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groupnorm.data.detection.rle import Mask, Runs, decode

Polygon = NDArray[np.float64]  # (n, 2): x and y of each corner in pixels
Integers = NDArray[np.int64]
LARGEST_COORDINATE = 1 << 20
MOST_CROSSINGS = 1 << 22
_FINER = 5


def parse(segmentation: list[Any]) -> tuple[Polygon, ...]:
    """The polygons of a segmentation [[x0, y0, x1, y1, ...], ...] from a file.

    Raises:
        ValueError: none, fewer than three corners, half a corner, or a coordinate that is no
            number or is beyond `LARGEST_COORDINATE`; the message says why.
    """
    if not segmentation:
        raise ValueError("its segmentation is empty")
    return tuple(map(_parse_one, segmentation))


def _parse_one(polygon: Any) -> Polygon:
    if not isinstance(polygon, list):
        raise ValueError(f"expected a list of coordinates for each polygon, got {polygon!r:.40}")
    if len(polygon) < 6 or len(polygon) % 2:
        raise ValueError(
            "a polygon needs an even number of coordinates, at least 6; one has "
            f"{len(polygon)} coordinates"
        )
    try:
        corners = np.array(polygon, np.float64) if {*map(type, polygon)} <= {int, float} else None
    except OverflowError:  # JSON's numbers may have any number of digits
        corners = None
    if corners is None or not np.abs(corners).max() <= LARGEST_COORDINATE:
        raise ValueError(
            f"expected coordinates from -{LARGEST_COORDINATE} to {LARGEST_COORDINATE}, got "
            f"{polygon!r:.200}"
        )
    return corners.reshape(-1, 2)


def draw(polygons: Sequence[Polygon], height: int, width: int) -> Mask:
    """The union of polygons, at least one, cut at the image's border: uint8 (H, W), 1 inside.

    Raises:
        ValueError: a polygon whose edges pass more than `MOST_CROSSINGS` columns.
    """
    parts = [decode(runs_of(polygon, height, width), height, width) for polygon in polygons]
    return functools.reduce(np.bitwise_or, parts)


def runs_of(polygon: Polygon, height: int, width: int) -> Runs:
    """The runs, as in `rle`, of one polygon.

    Raises:
        ValueError: as in `draw`.
    """
    corners = np.trunc(_FINER * polygon + 0.5).astype(np.int64)
    columns, heights = _crossings(corners, np.roll(corners, -1, axis=0), width)
    rows = np.ceil(np.clip((heights + 0.5) / _FINER - 0.5, 0, height)).astype(np.int64)
    positions, times = np.unique(columns * height + rows, return_counts=True)
    changes = positions[times % 2 == 1]  # crossings of two edges at one position cancel
    return np.diff(np.concatenate([[0], changes, [height * width]]))


def _crossings(begin: Integers, end: Integers, width: int) -> tuple[Integers, Integers]:
    """The columns that edges pass, and where (on the fine grid): two arrays of equal length.

    Args:
        begin: x and y of each edge's first corner on the fine grid, (n, 2).
        end: of its last corner.
    """
    # Each edge is followed along its longer axis, in the direction in which that grows.
    spans = np.abs(end - begin)
    flat = spans[:, 0] >= spans[:, 1]
    axis = np.where(flat, 0, 1)
    edges = np.arange(len(begin))
    backwards = (begin[edges, axis] > end[edges, axis])[:, None]
    begin, end = np.where(backwards, end, begin), np.where(backwards, begin, end)
    # Column x is passed between 5 x + 2 and 5 x + 3 on the fine grid.
    low, high = np.minimum(begin[:, 0], end[:, 0]), np.maximum(begin[:, 0], end[:, 0])
    first = np.maximum(-((2 - low) // _FINER), 0)
    last = np.minimum((high - 3) // _FINER, width - 1)
    counts = np.maximum(last - first + 1, 0)
    if counts.sum() > MOST_CROSSINGS:
        raise ValueError(f"the edges of a polygon pass more than {MOST_CROSSINGS:,} columns")
    edge = np.repeat(edges, counts)
    columns = first[edge] + np.arange(len(edge)) - np.repeat(counts.cumsum() - counts, counts)
    begin, end, flat = begin[edge], end[edge], flat[edge]
    rise = (end - begin).astype(np.float64)
    before = _FINER * columns + 2
    heights = np.empty_like(columns)
    heights[flat] = _of_flat(before[flat], begin[flat], rise[flat])
    heights[~flat] = _of_steep(before[~flat], begin[~flat], rise[~flat])
    return columns, heights


def _of_flat(before: Integers, begin: Integers, rise: NDArray[np.float64]) -> Integers:
    """The lesser of the heights at the columns `before` and `before` + 1."""
    slope = rise[:, 1] / rise[:, 0]
    steps = before - begin[:, 0]
    both = [np.trunc(begin[:, 1] + slope * (steps + k) + 0.5) for k in (0, 1)]
    return np.asarray(np.minimum(*both), np.int64)


def _of_steep(before: Integers, begin: Integers, rise: NDArray[np.float64]) -> Integers:
    """The height before the step on which the edge passes from or to the column `before`."""
    slope = rise[:, 0] / rise[:, 1]
    guess = np.ceil((before + 0.5 - begin[:, 0]) / slope)
    steps = guess + 1
    for earlier in (guess, guess - 1):  # the guess may be one step off by rounding
        right = np.trunc(begin[:, 0] + slope * earlier + 0.5) > before
        steps = np.where(right == (slope > 0), earlier, steps)
    return np.asarray(begin[:, 1] + steps - 1, np.int64)
