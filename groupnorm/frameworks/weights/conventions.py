"""What is no weight but decides what the weights compute: variance, padding, strides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from groupnorm.frameworks.weights.layouts import Array
from groupnorm.frameworks.weights.problems import WeightsError

Pads = tuple[tuple[int, int], ...]
"""Zeros before and after the map, for each spatial axis."""


def variance_from_torch(unbiased: Array, count: float) -> Array:
    """A running variance of PyTorch's, which is unbiased, as the biased one of others.

    Args:
        unbiased: n / (n - 1) times the biased variance, on average.
        count: n, the values per channel of a training batch, N H W; infinity leaves the numbers.
    """
    return (unbiased.astype(np.float64) * (1 - 1 / _count(count))).astype(unbiased.dtype)


def variance_to_torch(biased: Array, count: float) -> Array:
    """The inverse of `variance_from_torch`, up to rounding unless `count` is infinite."""
    return (biased.astype(np.float64) / (1 - 1 / _count(count))).astype(biased.dtype)


def _count(count: float) -> float:
    if not count > 1:
        raise WeightsError(
            "count must be the number of values per channel of a training batch, more than 1, "
            f"got {count}"
        )
    return count


def same_padding(
    kernel_size: Sequence[int], strides: Sequence[int], dilation: Sequence[int]
) -> Pads | None:
    """What "same" pads; None where that depends on the size of the map.

    With a stride it is (0, 1) for a kernel of 3, a stride of 2 and an even size, (1, 1) for an odd
    one.
    """
    extents = [(k - 1) * d for k, d in zip(kernel_size, dilation, strict=True)]
    if any(extent and stride > 1 for extent, stride in zip(extents, strides, strict=True)):
        return None
    return tuple((extent // 2, extent - extent // 2) for extent in extents)


def each_axis(value: Any, axes: int) -> tuple[int, ...]:
    """A setting of a convolution, such as its strides, for each spatial axis; None is 1."""
    if value is None or isinstance(value, int):
        return (1 if value is None else value,) * axes
    return tuple(value)


def torch_padding(module: Any) -> Pads:
    """What a convolution of PyTorch's pads."""
    if module.padding == "same":
        found = same_padding(module.kernel_size, module.stride, module.dilation)
        assert found is not None  # PyTorch refuses "same" with a stride
        return found
    if module.padding == "valid":
        return ((0, 0),) * len(module.kernel_size)
    return tuple((p, p) for p in module.padding)


def torch_transposed_padding(module: Any) -> Pads:
    """Zeros around the map that a transposed convolution of PyTorch's has spread by its stride."""
    return tuple(
        (d * (k - 1) - p, d * (k - 1) - p + more)
        for k, d, p, more in zip(
            module.kernel_size, module.dilation, module.padding, module.output_padding, strict=True
        )
    )
