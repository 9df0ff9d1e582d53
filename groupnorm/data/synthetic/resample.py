"""Exact area averaging of images at any position and scale, from a summed-area table.

Each output pixel is the mean of the input over the rectangle it covers, fractions of pixels
included, so shrinking is antialiased. When enlarging, the rectangle is one input pixel wide, which
is linear interpolation. Crow, Summed-area tables for texture mapping, SIGGRAPH 1984. All in float64
with elementwise arithmetic, so the result does not depend on threads or on an image library.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def area_table(image: NDArray[np.generic]) -> Array:
    """Sums over all rectangles from the top left corner: (H, W, C) -> float64 (H+1, W+1, C)."""
    height, width, channels = image.shape
    table = np.zeros((height + 1, width + 1, channels))
    np.cumsum(image, axis=0, out=table[1:, 1:])
    np.cumsum(table[1:, 1:], axis=1, out=table[1:, 1:])
    return table


def resample(
    table: Array, top: float, left: float, step_y: float, step_x: float, height: int, width: int
) -> Array:
    """Sample `height` x `width` pixels; what lies outside the image counts as zero.

    Args:
        table: `area_table` of the image.
        top: upper edge of the first output pixel, in input pixels.
        left: left edge of the first output pixel, in input pixels.
        step_y: input pixels per output pixel, downwards.
        step_x: input pixels per output pixel, to the right.
        height: rows to make.
        width: columns to make.

    Returns:
        float64 (height, width, C).
    """
    if step_y >= 1 and step_x >= 1:
        ys = top + step_y * np.arange(height + 1)
        xs = left + step_x * np.arange(width + 1)
        corners = _integral(table, ys, xs)
        rows = corners[1:] - corners[:-1]
        return np.asarray((rows[:, 1:] - rows[:, :-1]) / (step_y * step_x))
    side_y, side_x = max(step_y, 1.0), max(step_x, 1.0)
    ys = top + step_y * (np.arange(height) + 0.5) - side_y / 2
    xs = left + step_x * (np.arange(width) + 0.5) - side_x / 2
    both = _integral(table, np.concatenate([ys, ys + side_y]), np.concatenate([xs, xs + side_x]))
    rows = both[height:] - both[:height]
    return np.asarray((rows[:, width:] - rows[:, :width]) / (side_y * side_x))


def _integral(table: Array, ys: NDArray[np.floating], xs: NDArray[np.floating]) -> Array:
    """The integral from the top left corner to each (y, x): exact, as the table is bilinear."""
    height, width, channels = table.shape
    flat = table.reshape(height * width, channels)
    ys, xs = np.clip(ys, 0, height - 1), np.clip(xs, 0, width - 1)
    y0 = np.minimum(ys.astype(np.intp), height - 2)
    x0 = np.minimum(xs.astype(np.intp), width - 2)
    fy, fx = (ys - y0)[:, None, None], (xs - x0)[None, :, None]
    corner = y0[:, None] * width + x0
    upper = flat.take(corner, axis=0) * (1 - fx) + flat.take(corner + 1, axis=0) * fx
    corner += width
    lower = flat.take(corner, axis=0) * (1 - fx) + flat.take(corner + 1, axis=0) * fx
    return np.asarray(upper * (1 - fy) + lower * fy)


def area_matrices(starts: Array, steps: Array, count: int, size: int) -> Array:
    """What `resample` does along one axis, as matrices: for an image that moves or grows in a clip.

    `area_matrices(...)[t] @ values` has the means of `count` pixels in a row of `size` values. What
    lies outside of the row counts as zero.

    Args:
        starts: (T,), the edge of the first output pixel in frame t, in input pixels.
        steps: (T,), input pixels per output pixel.
        count: output pixels.
        size: input pixels.

    Returns:
        float64 (T, count, size).
    """
    widths = np.maximum(steps, 1.0)  # when enlarging, one input pixel around the centre
    centres = starts[:, None] + steps[:, None] * (np.arange(count) + 0.5)
    lower = centres - widths[:, None] / 2
    edges = np.arange(size + 1)
    below = np.clip(edges - lower[..., None], 0.0, widths[:, None, None])
    return np.asarray(np.diff(below, axis=-1) / widths[:, None, None])
