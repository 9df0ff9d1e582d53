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
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from groupnorm.frameworks.arguments import (
    LEAKY_SLOPE,
    channel_axis,
    check_activation,
    check_eps,
    check_input,
    check_parameter,
    group_count,
)


def _leaky_relu(z: Any) -> Any:
    return ops.where(z > 0, z, LEAKY_SLOPE * z)  # that of JAX has slope 1 at 0


def _hardswish(z: Any) -> Any:
    return ops.where(z <= -3, 0.0, ops.where(z < 3, z * (z + 3) / 6, z))  # JAX: slope -1/4 at -3


_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "relu": ops.relu,
    "leaky_relu": _leaky_relu,
    "silu": ops.silu,
    "gelu": lambda z: ops.gelu(z, approximate=False),
    "gelu_tanh": lambda z: ops.gelu(z, approximate=True),
    "mish": lambda z: z * ops.tanh(ops.softplus(z)),
    "hardswish": _hardswish,
}


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
    (float64 for float64 input) of centred values, and the result is rounded once. On TensorFlow and
    JAX, where the sum of a group's values or of their squared deviations overflows, the group
    becomes NaN, as with infinite values: in float32 with deviations of 1e19, less with many values.
    `groupnorm.group_norm`, and so the torch backend, scales such groups down first, which would
    cost a pass over x here.

    Args:
        x: tensor of at least two axes, the first of which is the batch: (N, *, C), or with the
            channels elsewhere. float16, bfloat16, float32 or float64; sizes other than C may be
            unknown.
        groups: G, a divisor of C; group g holds the channels g C / G ... (g + 1) C / G - 1.
        gamma: scale, shape (C,), or None; of x's dtype, or float32 with half x.
        beta: shift, likewise.
        epsilon: as in Keras 1e-3; PyTorch has 1e-5.
        activation: None, "relu", "leaky_relu", "silu", "gelu" (with erf), "gelu_tanh" (its
            approximation), "mish" or "hardswish", with the values and slopes of PyTorch's.
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
    check_input(x.shape, dtype)
    axis = channel_axis(x.shape, axis)
    groups = group_count(x.shape, axis, groups)
    check_activation(activation)
    epsilon = check_eps("epsilon", epsilon)
    gamma, beta = (
        None if values is None else ops.convert_to_tensor(values) for values in (gamma, beta)
    )
    for name, values in (("gamma", gamma), ("beta", beta)):
        if values is not None:
            own = keras.backend.standardize_dtype(values.dtype)
            check_parameter(name, values.shape, own, x.shape, dtype, axis)
    if keras.backend.backend() == "torch":
        return _torch_group_norm(x, groups, gamma, beta, epsilon, activation, axis)
    y = _pooled(x, groups, gamma, beta, epsilon, axis)
    if activation is not None:
        y = _ACTIVATIONS[activation](y)
    return ops.cast(y, dtype)


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
        return ops.reshape(ops.cast(values, dtype), of_channel)

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
    # An infinite variance would give beta alone. Inside the root: behind it, XLA would compute the
    # root for each value of the map.
    factor = ops.rsqrt(ops.where(variance < math.inf, variance + epsilon, math.nan))
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

    y = groupnorm.group_norm(
        x.movedim(axis, 1), groups, gamma, beta, epsilon, activation=activation
    )
    return y.movedim(1, axis)
