"""Group normalization in JAX, in the pooled form: the map is never reshaped into groups.

Means over the positions give (N, C) numbers, and the means of groups come from those. The map has
the group means subtracted, which are constants to the gradient; what rounding left of them and the
variance are means of the centred values; one multiplication and one addition for each value follow.

The gradient is a `custom_jvp` rule whose linear part is recomputed (`jax.checkpoint`): reverse mode
keeps x and numbers of (N, C), and forward mode works. Between one `jit` and another, autodiff would
keep several maps. Inside one `jit`, XLA finds what is recomputed in the forward pass and keeps it,
unless `jax.checkpoint` stands between: that trades a little time of a network for its memory.
`custom_vjp` has no forward mode and gains nothing. benchmarks/bench_jax_gradients.py measures all
of them; docs/frameworks.md has the table.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

from groupnorm.frameworks.arguments import (
    channel_axis,
    check_activation,
    check_eps,
    check_input,
    check_parameter,
    group_count,
)
from groupnorm.frameworks.jax.activations import activate, slope


def group_norm(
    x: Any,
    groups: int,
    scale: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    activation: str | None = None,
    residual: Any = None,
    axis: int = -1,
) -> Array:
    """y = activation(GN(x) * scale + bias + residual) (Wu & He 2018, arXiv 1803.08494).

    The same function as `groupnorm.group_norm`, channels last. It works under `jit`, `grad`, `vmap`
    and `shard_map` over the batch, in forward mode, and for derivatives of any order.

    The biased variance has eps added inside the root. Statistics are computed in float32 (float64
    for float64 input) of centred values, and the result is rounded once. The batch may be empty.
    Where the sum of a group's values or of their squared deviations overflows, the group becomes
    NaN, as with infinite values: in float32 with deviations of 1e19, less with many values.
    `groupnorm.group_norm` scales such groups down first, which would cost a pass over x here.

    Args:
        x: array of at least two axes, the first of which is the batch: (N, *, C), or with the
            channels elsewhere. float16, bfloat16, float32 or float64.
        groups: G, a divisor of C; group g holds the channels g C / G ... (g + 1) C / G - 1.
        scale: gamma, shape (C,), or None.
        bias: beta, shape (C,), or None.
        eps: a number, known when the function is traced.
        activation: None, "relu", "leaky_relu", "silu", "gelu" (with erf), "gelu_tanh" (its
            approximation), "mish" or "hardswish".
        residual: same shape and dtype as x, added before the activation, or None.
        axis: of the channels, not 0; negative numbers count from the end.

    Returns:
        Array of x's shape and dtype.

    Raises:
        ValueError: shapes, dtypes, axis, groups or an activation that do not fit.
    """
    x, scale, bias, residual = (
        None if array is None else jnp.asarray(array) for array in (x, scale, bias, residual)
    )
    if x is None:
        raise ValueError("x must be an array, got None")
    check_input(x.shape, x.dtype.name)
    axis = channel_axis(x.shape, axis)
    groups = group_count(x.shape, axis, groups)
    for name, parameter in (("scale", scale), ("bias", bias)):
        if parameter is not None:
            check_parameter(
                name, parameter.shape, parameter.dtype.name, x.shape, x.dtype.name, axis
            )
    check_activation(activation)
    if residual is not None and (residual.shape != x.shape or residual.dtype != x.dtype):
        raise ValueError(
            f"residual must be {x.dtype.name} of shape {x.shape} as x, got {residual.dtype.name} "
            f"of shape {residual.shape}"
        )
    return _compiled(x, scale, bias, residual, groups, check_eps("eps", eps), activation, axis)


@partial(jax.custom_jvp, nondiff_argnums=(4, 5, 6, 7))
def _group_norm(
    x: Array,
    scale: Array | None,
    bias: Array | None,
    residual: Array | None,
    groups: int,
    eps: float,
    activation: str | None,
    axis: int,
) -> Array:
    statistics = _statistics(x, groups, eps, axis)
    z = _pre_activation(x, scale, bias, residual, statistics, axis)
    return activate(z, activation).astype(x.dtype)


@partial(_group_norm.defjvp, symbolic_zeros=True)
def _differentiate(
    groups: int,
    eps: float,
    activation: str | None,
    axis: int,
    primals: tuple[Any, ...],
    tangents: tuple[Any, ...],
) -> tuple[Array, Array]:
    """y and its tangent, linear in the tangents; transposed, the gradient."""
    x, scale, bias, residual = primals
    # what is not differentiated would otherwise be a map of zeros that the backward pass keeps
    tangents = tuple(None if isinstance(t, SymbolicZero) else t for t in tangents)
    statistics = _statistics(x, groups, eps, axis)
    y = activate(_pre_activation(x, scale, bias, residual, statistics, axis), activation)
    tangent = jax.checkpoint(partial(_tangent, groups=groups, activation=activation, axis=axis))
    return y.astype(x.dtype), tangent(primals, statistics, tangents)


_compiled = jax.jit(_group_norm, static_argnums=(4, 5, 6, 7))


def _statistics(x: Array, groups: int, eps: float, axis: int) -> tuple[Array, Array, Array]:
    """Of each group: its mean rounded, what is left of it, and rstd, all (N, C).

    The first is a constant to the gradient; the mean is the sum of the first two.
    """
    x = _accumulated(x)
    shift_nc = lax.stop_gradient(_group_mean(_position_mean(x, axis), groups))
    centred = x - _spread(shift_nc, x, axis)
    rest_nc = _group_mean(_position_mean(centred, axis), groups)
    square_nc = _group_mean(_position_mean(centred * centred, axis), groups)
    variance_nc = jnp.maximum(square_nc - rest_nc * rest_nc, 0)  # rest is a rounding error
    # An infinite variance would give the bias alone. Inside the root: behind it, XLA would compute
    # the root for each value of the map.
    finite_nc = jnp.where(variance_nc < jnp.inf, variance_nc + eps, jnp.nan)
    return shift_nc, rest_nc, lax.rsqrt(finite_nc)


def _pre_activation(
    x: Array,
    scale: Array | None,
    bias: Array | None,
    residual: Array | None,
    statistics: tuple[Array, Array, Array],
    axis: int,
) -> Array:
    """z = (x - mean) * rstd * scale + bias + residual in the accumulation dtype."""
    x = _accumulated(x)
    shift_nc, rest_nc, rstd_nc = statistics
    factor_nc = _times(rstd_nc, scale)
    offset_nc = -rest_nc * factor_nc
    if bias is not None:
        offset_nc = offset_nc + bias.astype(x.dtype)
    centred = x - _spread(shift_nc, x, axis)
    z = centred * _spread(factor_nc, x, axis) + _spread(offset_nc, x, axis)
    return z if residual is None else z + residual.astype(x.dtype)


def _tangent(
    primals: tuple[Any, ...],
    statistics: tuple[Array, Array, Array],
    tangents: tuple[Any, ...],
    groups: int,
    activation: str | None,
    axis: int,
) -> Array:
    """The tangent of y. With xhat = (x - mean) * rstd and tangents dx, dscale, ...::

        dxhat = rstd * (dx - mean_group(dx) - xhat * mean_group(dx * xhat))
        dy = activation'(z) * (dxhat * scale + xhat * dscale + dbias + dresidual)

    Again one multiplication and one addition for each value, of x and of dx.
    """
    dtype = primals[0].dtype
    x, scale, bias, residual = primals
    dx, dscale, dbias, dresidual = (None if t is None else _accumulated(t) for t in tangents)
    x = _accumulated(x)
    shift_nc, rest_nc, rstd_nc = statistics
    centred = x - _spread(shift_nc, x, axis)
    # dz = dx * factor + centred * slope + offset
    slope_nc = jnp.zeros_like(rstd_nc) if dscale is None else rstd_nc * dscale
    offset_nc = jnp.zeros_like(rstd_nc) if dbias is None else dbias + jnp.zeros_like(rstd_nc)
    if dx is not None:
        factor_nc = _times(rstd_nc, scale)
        dmean_nc = _group_mean(_position_mean(dx, axis), groups)
        dcov_nc = _group_mean(_position_mean(centred * dx, axis), groups) - rest_nc * dmean_nc
        slope_nc = slope_nc - factor_nc * rstd_nc * rstd_nc * dcov_nc
        offset_nc = offset_nc - factor_nc * dmean_nc
    offset_nc = offset_nc - rest_nc * slope_nc
    dz = centred * _spread(slope_nc, x, axis) + _spread(offset_nc, x, axis)
    if dx is not None:
        dz = dz + dx * _spread(factor_nc, x, axis)
    if dresidual is not None:
        dz = dz + dresidual
    if activation is not None:
        z = _pre_activation(x, scale, bias, residual, statistics, axis)
        dz = dz * slope(z, activation)
    return dz.astype(dtype)


def _accumulated(x: Array) -> Array:
    """x in the dtype of the statistics: float64 for float64, else float32."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _position_mean(x: Array, axis: int) -> Array:
    """Mean over the positions, (N, C); 0 where there are none."""
    positions = tuple(i for i in range(1, x.ndim) if i != axis)
    count = math.prod(x.shape[i] for i in positions)
    return x.sum(positions) / (1 if count == 0 else count)


def _group_mean(values_nc: Array, groups: int) -> Array:
    """Mean over the channels of each group, at each of its channels: (N, C)."""
    n, c = values_nc.shape
    means = values_nc.reshape(n, groups, c // groups).mean(2, keepdims=True)
    return jnp.broadcast_to(means, (n, groups, c // groups)).reshape(n, c)


def _spread(values_nc: Array, x: Array, axis: int) -> Array:
    """(N, C) in a shape that broadcasts against x."""
    return lax.broadcast_in_dim(
        values_nc, tuple(x.shape[i] if i in (0, axis) else 1 for i in range(x.ndim)), (0, axis)
    )


def _times(values_nc: Array, scale: Array | None) -> Array:
    return values_nc if scale is None else values_nc * scale.astype(values_nc.dtype)
