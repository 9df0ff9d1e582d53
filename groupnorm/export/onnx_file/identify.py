"""Whether a function of arrays is a group norm, told from what it computes in float64.

Random input is put in, of a spread at which eps does not count, and the output compared with the
group norm of every number of groups: it is one when a scale and a shift for each channel make the
rest vanish. No formula is taken for granted, and none that only looks like group norm passes: other
axes, a variance of n - 1 where sizes may change, a deviation with eps outside of the root.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from groupnorm.export.onnx_file.evaluate import Array

Function = Callable[[Array], Array]

_SAME = 1e-8
"""Of the largest output: float64 leaves 1e-12 of it, another formula makes it differ by 1e-3."""
_LARGE = 1e10
"""Spread of an input at which no eps counts."""
_SMALL = (1e-3, 1e-2)
"""Spreads at which eps counts; it must be the same at both."""
_EPS_AGREES = 1e-3
_POSITIONS = 32
"""Of a map, to which scale and shift are fitted."""
_DRAWN = 65_521
"""Numbers drawn for one input; a prime, so that no axis of it repeats."""


@dataclass(frozen=True)
class Identified:
    """A group norm.

    Attributes:
        axis: of the channels: 1, or the last one.
        channels: C.
        groups: G.
        eps: added to the biased variance.
        weight: scale of each channel, shape (C,).
        bias: shift of each channel, shape (C,).
    """

    axis: int
    channels: int
    groups: int
    eps: float
    weight: Array
    bias: Array

    @property
    def has_scale(self) -> bool:
        """Whether the scale does anything."""
        return bool(np.abs(self.weight - 1).max() > _SAME)

    @property
    def has_shift(self) -> bool:
        """Whether the shift does anything."""
        return bool(np.abs(self.bias).max() > _SAME)

    @property
    def is_affine(self) -> bool:
        """Whether scale or shift do anything."""
        return self.has_scale or self.has_shift

    def of(self, x: Array, eps: float | None = None) -> Array:
        """What it gives for x, in float64; with another eps if one is given."""
        y = group_norm(x, self.groups, self.eps if eps is None else eps, self.axis)
        weight, bias = (per_channel(v, x.ndim, self.axis) for v in (self.weight, self.bias))
        return np.asarray(y * weight + bias)


def per_channel(values: Array, rank: int, axis: int) -> Array:
    """Values of each channel, shape (C,), as an array of that rank with the channels in an axis."""
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape)


def group_norm(x: Array, groups: int, eps: float, axis: int) -> Array:
    """Group norm without scale and shift, in float64.

    Args:
        x: shape (N, C, *), or with the channels in another axis.
        groups: G, a divisor of C.
        eps: added to the variance.
        axis: of the channels.
    """
    first = np.moveaxis(x.astype(np.float64), axis, 1)
    parts = first.reshape(len(x), groups, -1)
    d = parts - parts.mean(2, keepdims=True)
    d = d - d.mean(2, keepdims=True)
    y = d / np.sqrt((d * d).mean(2, keepdims=True) + eps)
    return np.moveaxis(y.reshape(first.shape), 1, axis)


def identify(
    function: Function, shape: tuple[int, ...], others: tuple[tuple[int, ...], ...] = ()
) -> Identified | None:
    """What group norm a function computes; None if it computes none.

    Args:
        function: takes a float64 array of any of the shapes.
        shape: of the input.
        others: shapes of the input in which only sizes that may change differ.
    """
    rng = np.random.default_rng(0)
    draws = 1 + 24 // math.prod(shape[:1] + shape[2:])
    for axis in dict.fromkeys((1, len(shape) - 1)):
        if any(other[axis] != shape[axis] for other in others):
            continue
        inputs = [_random(rng, shape, axis) * _LARGE for _ in range(draws)]
        outputs = [function(inputs[0])]
        if outputs[0].shape != shape or not np.isfinite(outputs[0]).all():
            return None
        outputs += map(function, inputs[1:])
        x, y = np.concatenate(inputs), np.concatenate(outputs)
        channels = shape[axis]
        x, y = (np.moveaxis(part, axis, 1).reshape(len(x), channels, -1) for part in (x, y))
        mean = x.mean(2, keepdims=True)
        square = ((x - mean) ** 2).mean(2, keepdims=True)
        some = np.linspace(0, x.shape[2] - 1, min(x.shape[2], _POSITIONS)).astype(int)
        sample = x[:, :, some], y[:, :, some], mean, square
        for groups in (g for g in range(1, channels + 1) if channels % g == 0):
            found = _fitted(*sample, axis, groups)
            if found is None or not _holds(function, found, (shape, *others), rng):
                continue
            eps = _eps(function, found, shape, rng)
            if eps is not None:
                return Identified(axis, channels, groups, eps, found.weight, found.bias)
    return None


def _random(rng: np.random.Generator, shape: tuple[int, ...], axis: int) -> Array:
    """Normal numbers whose channels have other means and spreads."""
    channels = [1] * len(shape)
    channels[axis] = shape[axis]
    # a large map repeats: to draw takes longer than all else
    x = np.resize(rng.standard_normal(min(math.prod(shape), _DRAWN)), shape)
    return np.asarray(x * rng.uniform(0.5, 2, channels) + rng.standard_normal(channels))


def _fitted(
    x: Array, y: Array, mean: Array, square: Array, axis: int, groups: int
) -> Identified | None:
    """Scale and shift of each channel by least squares, where they leave nothing.

    Args:
        x: some positions of the input, shape (N, C, S).
        y: the same of the output.
        mean: of each channel over all positions, shape (N, C, 1).
        square: mean square of what is left of it, shape (N, C, 1).
        axis: of the channels, before.
        groups: G.
    """
    channels = x.shape[1]

    def over_groups(values: Array) -> Array:
        means = values.reshape(len(x), groups, -1).mean(2)
        return np.asarray(means.repeat(channels // groups, 1)[:, :, None])

    of_group = over_groups(mean)
    variance = over_groups(square + (mean - of_group) ** 2)
    h = (x - of_group) / np.sqrt(variance)
    if not np.isfinite(h).all():
        return None
    h, z = (part.swapaxes(0, 1).reshape(channels, -1) for part in (h, y))
    centre, middle = h.mean(1, keepdims=True), z.mean(1, keepdims=True)
    squares = ((h - centre) ** 2).sum(1, keepdims=True)
    weight = ((h - centre) * (z - middle)).sum(1, keepdims=True) / np.maximum(squares, 1e-30)
    bias = middle - weight * centre
    largest = np.abs(z).max()
    if np.abs(weight).max() <= _SAME * largest or np.abs(weight).max() == 0:
        return None
    if np.abs(h * weight + bias - z).max() > _SAME * largest:
        return None
    return Identified(axis, channels, groups, 0.0, weight[:, 0], bias[:, 0])


def _holds(
    function: Function, found: Identified, shapes: tuple[tuple[int, ...], ...],
    rng: np.random.Generator,
) -> bool:  # fmt: skip
    """Whether the same scale and shift fit other numbers and other sizes."""
    for shape in shapes:
        x = (_random(rng, shape, found.axis) + 30) * _LARGE
        y = function(x)
        expected = found.of(x, eps=0.0)
        if y.shape != x.shape or np.abs(y - expected).max() > 10 * _SAME * np.abs(expected).max():
            return False
    return True


def _eps(
    function: Function, found: Identified, shape: tuple[int, ...], rng: np.random.Generator
) -> float | None:
    """eps, from how much less than 1 the output of a small input spreads."""
    values = []
    for spread in _SMALL:
        x = _random(rng, shape, found.axis) * spread
        first = np.moveaxis(x, found.axis, 1)
        parts = first.reshape(len(x), found.groups, -1)
        d = parts - parts.mean(2, keepdims=True)
        variance = (d * d).mean(2, keepdims=True)
        weight = np.where(_near_zero(found.weight), np.nan, found.weight)
        weight, bias = (per_channel(v, x.ndim, found.axis) for v in (weight, found.bias))
        z = (function(x) - bias) / weight
        z = np.moveaxis(z, found.axis, 1).reshape(parts.shape)
        used = np.where(np.isnan(z), 0.0, d * d).sum(2)
        eps = used / np.nansum(z * z, 2) - variance[:, :, 0]
        eps = eps[np.isfinite(eps)]
        if not eps.size:
            return None
        values.append((float(np.median(eps)), float(variance.max())))
    (small, at_small), (large, at_large) = values
    if abs(small - large) > _EPS_AGREES * max(small, large) + 1e-10 * at_large:
        return None
    return 0.0 if small < 1e-10 * at_small else float(f"{np.float32(small):.7g}")


def _near_zero(values: Array) -> Array:
    return np.asarray(np.abs(values) <= _SAME * np.abs(values).max())
