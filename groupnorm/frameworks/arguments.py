"""Checks of arguments, of shapes, names of dtypes and numbers alone: one for all frameworks."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

FLOATS = ("float16", "bfloat16", "float32", "float64")
_HALF = ("float16", "bfloat16")
ACTIVATIONS = ("relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "mish", "hardswish")
LEAKY_SLOPE = 0.01

# form -> its eps, as in groupnorm.layers.WS_FORMS
WS_FORMS: dict[str, float] = {"timm": 1e-6, "bit": 1e-10, "original": 1e-5}
"""The forms of eps in use, by where their weights come from, and the eps of each."""

Shape = Sequence[int | None]


def whole_number(value: Any) -> int | None:
    """The value as an int; None where it is not one, as with True and 2.0."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def check_eps(name: str, eps: Any) -> float:
    """The eps as a float.

    Args:
        name: what the argument is called.
        eps: as it was given.

    Raises:
        ValueError: it is no finite number of at least 0.
    """
    number = not isinstance(eps, (bool, str)) and hasattr(eps, "__float__")
    if not number or not 0 <= float(eps) < math.inf:
        raise ValueError(f"{name} must be a number of at least 0, got {eps!r}")
    return float(eps)


def check_activation(name: Any) -> None:
    """Raise ValueError, listing the known names, unless `name` is None or one of them."""
    if name is not None and not (isinstance(name, str) and name in ACTIVATIONS):
        raise ValueError(f"unknown activation {name!r}; known: None, {', '.join(ACTIVATIONS)}")


def check_input(shape: Shape, dtype: str) -> None:
    """Raise ValueError unless x has a dtype that can be normalized.

    Args:
        shape: of x.
        dtype: of x, its name.
    """
    if dtype not in FLOATS:
        raise ValueError(f"x must be {', '.join(FLOATS)}, got {dtype} of shape {tuple(shape)}")


def channel_axis(shape: Shape, axis: Any) -> int:
    """The axis as a number of at least 1.

    Args:
        shape: of x.
        axis: as it was given.

    Raises:
        ValueError: it is no number, is the batch axis or lies outside.
    """
    shape = tuple(shape)
    rank = len(shape)
    if rank < 2:
        raise ValueError(f"x must have a batch axis and a channel axis, got shape {shape}")
    number = whole_number(axis)
    if number is None or not -rank <= number < rank:
        raise ValueError(
            f"axis must be one integer from {-rank} to {rank - 1} for x of shape {shape}, got "
            f"{axis!r}"
        )
    if number % rank == 0:
        raise ValueError(
            f"axis {axis} is the batch axis of x of shape {shape}; give the axis of the channels"
        )
    return number % rank


def group_count(shape: Shape, axis: int, groups: Any) -> int:
    """The groups as a number, a divisor of the channels.

    Args:
        shape: of x.
        axis: of the channels, as `channel_axis` returns it.
        groups: as they were given.

    Raises:
        ValueError: the channels are unknown, or no multiple of groups.
    """
    shape = tuple(shape)
    channels = shape[axis]
    if channels is None:
        raise ValueError(
            f"the number of channels must be known, got x of shape {shape} with channels on axis "
            f"{axis}"
        )
    number = whole_number(groups)
    if number is None or number < 1 or channels < 1 or channels % number:
        raise ValueError(
            f"the number of channels must be a positive multiple of groups, got {channels} "
            f"channels and {groups!r} groups (x of shape {shape}, channels on axis {axis})"
        )
    return number


def check_parameter(
    name: str, shape: Shape, dtype: str, x_shape: Shape, x_dtype: str, axis: int
) -> None:
    """Raise ValueError unless a scale or shift goes with x.

    Args:
        name: of the parameter.
        shape: of the parameter.
        dtype: of the parameter, its name.
        x_shape: of x.
        x_dtype: of x.
        axis: of the channels.
    """
    channels = x_shape[axis]
    if tuple(shape) != (channels,):
        raise ValueError(
            f"{name} must have shape ({channels},) for x of shape {tuple(x_shape)} with channels "
            f"on axis {axis}, got {tuple(shape)}"
        )
    mixed = x_dtype in _HALF and dtype == "float32"
    if dtype != x_dtype and not mixed:
        raise ValueError(
            f"{name} is {dtype} but x is {x_dtype}; they must agree (float32 parameters also go "
            "with half x). Convert one of them"
        )


def check_form(form: str, eps: float | None) -> float:
    """The eps of weight standardization to use: the one given, or the form's.

    Raises:
        ValueError: unknown form, or eps outside (0, 1).
    """
    if form not in WS_FORMS:
        raise ValueError(
            f"unknown form of weight standardization {form!r}; known: {', '.join(WS_FORMS)}"
        )
    eps = WS_FORMS[form] if eps is None else eps
    if not 0 < eps < 1:
        raise ValueError(f"eps must lie between 0 and 1, got {eps}")
    return eps


def check_kernel(shape: Sequence[int], dtype: str) -> None:
    """Raise ValueError unless a kernel can be standardized.

    Args:
        shape: of the kernel, (*kernel, in_channels / groups, out_channels).
        dtype: of the kernel, its name.
    """
    if "float" not in dtype:
        raise ValueError(
            f"kernel must hold floating-point numbers, got {dtype} of shape {tuple(shape)}"
        )
    if len(shape) < 2 or math.prod(shape[:-1]) == 1:
        raise ValueError(
            "a filter of one weight is standardized to 0, got weights of shape "
            f"{tuple(shape)}; leave this convolution as it is"
        )
