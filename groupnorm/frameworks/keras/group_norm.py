"""Group normalization in Keras, in the pooled form: the map is never reshaped into groups.

Means over the positions give (N, C) numbers, and the means of groups come from those. The map has
the group means subtracted, which are constants to the gradient; what rounding left of them and the
variance are means of the centred values; one multiplication and one addition for each value follow.

On TensorFlow and JAX these are operations of `keras.ops`, also under XLA, where this form was the
faster one in every shape tried. On PyTorch it is `groupnorm.group_norm` on the permuted view, whose
memory is channels_last.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

_HALF = ("float16", "bfloat16")
_FLOATS = (*_HALF, "float32", "float64")
_LEAKY_SLOPE = 0.01
_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "relu": ops.relu,
    "leaky_relu": lambda z: ops.leaky_relu(z, negative_slope=_LEAKY_SLOPE),
    "silu": ops.silu,
    "gelu": lambda z: ops.gelu(z, approximate=False),
    "gelu_tanh": lambda z: ops.gelu(z, approximate=True),
    "mish": lambda z: z * ops.tanh(ops.softplus(z)),
    "hardswish": ops.hard_silu,
}
ACTIVATIONS: tuple[str, ...] = tuple(_ACTIVATIONS)
"""Names of activations, of the same meaning as in `groupnorm.group_norm`."""


def check_activation(name: Any) -> None:
    """Raise ValueError, listing the known names, unless `name` is None or one of them."""
    if name is not None and name not in _ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; known: None, {', '.join(ACTIVATIONS)}")


def group_norm(
    x: Any,
    groups: int,
    gamma: Any = None,
    beta: Any = None,
    epsilon: float = 1e-3,
    activation: str | None = None,
    axis: int = -1,
) -> Any:
    """y = activation(GN(x) * gamma + beta) (Wu & He 2018, arXiv 1803.08494).

    The biased variance has epsilon added inside the root. Statistics are computed in float32
    (float64 for float64 input) of centred values, and the result is rounded once.

    Args:
        x: tensor of at least two axes, the first of which is the batch: (N, *, C), or with the
            channels elsewhere. float16, bfloat16, float32 or float64; sizes other than C may be
            unknown.
        groups: G, a divisor of C; group g holds the channels g C / G ... (g + 1) C / G - 1.
        gamma: scale, shape (C,), or None.
        beta: shift, shape (C,), or None.
        epsilon: as in Keras 1e-3; PyTorch has 1e-5.
        activation: None, "relu", "leaky_relu", "silu", "gelu" (with erf), "gelu_tanh" (its
            approximation), "mish" or "hardswish".
        axis: of the channels, not 0; negative numbers count from the end.

    Returns:
        Tensor of x's shape and dtype.

    Raises:
        ValueError: shapes, dtypes, axis, groups or an activation that do not fit.
        TypeError: x is a symbolic tensor of the functional API, which the layer takes.
    """
    if isinstance(x, keras.KerasTensor):
        raise TypeError(
            "group_norm computes with tensors; in a functional model use the layer "
            "groupnorm.frameworks.keras.GroupNormalization"
        )
    x = ops.convert_to_tensor(x)
    dtype = keras.backend.standardize_dtype(x.dtype)
    if dtype not in _FLOATS:
        raise ValueError(f"x must be {', '.join(_FLOATS)}, got {dtype} of shape {tuple(x.shape)}")
    axis = channel_axis(x.shape, axis)
    groups = group_count(x.shape, axis, groups)
    check_activation(activation)
    channels = x.shape[axis]
    for name, values in (("gamma", gamma), ("beta", beta)):
        if values is not None and tuple(values.shape) != (channels,):
            raise ValueError(
                f"{name} must have shape ({channels},) for x of shape {tuple(x.shape)} with "
                f"channels on axis {axis}, got {tuple(values.shape)}"
            )
    if keras.backend.backend() == "torch":
        return _torch_group_norm(x, groups, gamma, beta, epsilon, activation, axis)
    y = _pooled(x, groups, gamma, beta, epsilon, axis)
    if activation is not None:
        y = _ACTIVATIONS[activation](y)
    return ops.cast(y, dtype)


def channel_axis(shape: Any, axis: Any) -> int:
    """The axis as a number of at least 1.

    Args:
        shape: of the input.
        axis: as it was given.

    Raises:
        ValueError: it is no number, is the batch axis or lies outside.
    """
    rank = len(shape)
    if rank < 2:
        raise ValueError(f"x must have a batch axis and a channel axis, got shape {tuple(shape)}")
    number = whole_number(axis)
    if number is None or not -rank <= number < rank:
        raise ValueError(
            f"axis must be one integer from {-rank} to {rank - 1} for an input of shape "
            f"{tuple(shape)}, got {axis!r}"
        )
    if number % rank == 0:
        raise ValueError(
            f"axis {axis} is the batch axis of an input of shape {tuple(shape)}; give the axis of "
            "the channels"
        )
    return number % rank


def group_count(shape: Any, axis: int, groups: Any) -> int:
    """The groups as a number, a divisor of the channels.

    Args:
        shape: of the input.
        axis: of the channels.
        groups: as they were given.

    Raises:
        ValueError: the channels are unknown, or no multiple of groups.
    """
    channels = shape[axis]
    if channels is None:
        raise ValueError(
            f"the number of channels must be known, got shape {tuple(shape)} with channels on "
            f"axis {axis}"
        )
    number = whole_number(groups)
    if number is None or number < 1 or channels < 1 or channels % number:
        raise ValueError(
            f"the number of channels must be a positive multiple of groups, got {channels} "
            f"channels and {groups!r} groups (shape {tuple(shape)}, channels on axis {axis})"
        )
    return number


def whole_number(value: Any) -> int | None:
    """The value as an int; None where it is none, as True."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def _pooled(x: Any, groups: int, gamma: Any, beta: Any, epsilon: float, axis: int) -> Any:
    """Before the activation, in float32 or float64."""
    dtype = "float64" if keras.backend.standardize_dtype(x.dtype) == "float64" else "float32"
    shape, channels = ops.shape(x), x.shape[axis]
    before, after = shape[1:axis], shape[axis + 1 :]
    # One image alone has no batch axis: in jax 0.10 on the CPU the sum of a product over the middle
    # axis of (1, P, C), which the gradient has, takes ten times as long as over (P, C).
    batch = () if isinstance(shape[0], int) and shape[0] == 1 else shape[:1]
    one_before, one_after = _merged(before), _merged(after)
    x = ops.reshape(ops.cast(x, dtype), (*batch, *one_before, channels, *one_after))
    spread = (*batch, *(1 for _ in one_before), channels, *(1 for _ in one_after))
    grouped = (*batch, groups, channels // groups)
    count = math.prod((*before, *after)) * (channels // groups)
    # of a group without values the mean is 0
    count = max(count, 1) if isinstance(count, int) else ops.cast(ops.maximum(count, 1), dtype)
    of_channel = (channels, *(1 for _ in one_after))

    def per_channel(values: Any) -> Any:
        return ops.reshape(ops.convert_to_tensor(values, dtype=dtype), of_channel)

    def group_mean(values: Any) -> Any:
        """Mean over the positions and the channels of each group, at each of its channels."""
        # One axis at a time, which TensorFlow does faster than many rows at once; compilers merge
        # the sums again. Not ops.mean, which rounds to float32 on JAX.
        values = ops.reshape(values, (*batch, *before, channels, *after))
        for _ in after:
            values = ops.sum(values, -1)
        for _ in before:
            values = ops.sum(values, -2)
        means = ops.sum(ops.reshape(values, grouped), -1, keepdims=True) / count
        return ops.reshape(ops.broadcast_to(means, grouped), spread)

    shift = ops.stop_gradient(group_mean(x))
    centred = x - shift
    rest = group_mean(centred)
    variance = ops.maximum(group_mean(centred * centred) - rest * rest, 0)
    factor = ops.rsqrt(variance + epsilon)
    factor = factor if gamma is None else factor * per_channel(gamma)
    offset = -rest * factor
    offset = offset if beta is None else offset + per_channel(beta)
    return ops.reshape(centred * factor + offset, shape)


def _merged(sizes: tuple[Any, ...]) -> tuple[Any, ...]:
    """The axes as one; as they are where jax.export has formulas for sizes.

    JAX may not see that the product of such formulas cannot be negative.
    """
    size = math.prod(sizes)
    return (size,) if sizes and (isinstance(size, int) or ops.is_tensor(size)) else sizes


def _torch_group_norm(
    x: Any, groups: int, gamma: Any, beta: Any, epsilon: float, activation: str | None, axis: int
) -> Any:
    """On Keras's torch backend: the channels become the second axis, in the same memory."""
    import groupnorm

    def tensor(values: Any) -> Any:
        if values is None:
            return None
        values = ops.convert_to_tensor(values)
        return values if values.dtype == x.dtype else values.float()

    y = groupnorm.group_norm(
        x.movedim(axis, 1), groups, tensor(gamma), tensor(beta), epsilon, activation=activation
    )
    return y.movedim(1, axis)
