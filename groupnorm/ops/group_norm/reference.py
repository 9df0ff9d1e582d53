"""The specification: group normalization forward and backward in plain PyTorch, any float dtype.

Letters: N batch, C channels, G groups, D = C / G channels per group, S = product of the spatial
axes. Every other backend is compared with these two functions and nothing else.

Numeric contract: biased variance, eps inside the root, statistics in float32 for half and single
input and in float64 for double, of centred or shifted values, normalization in centred form, mean
and rstd kept in the statistics' dtype, output in the input's dtype and memory format. A group whose
sum of squares would overflow is multiplied by a power of two first. The statistics take two passes
here, the mean first; the kernels for the CPU, and those for CUDA where a group does not stay on
chip, take one pass around a shift.
"""

from __future__ import annotations

import torch
from torch import Tensor

from groupnorm.ops.group_norm.activations import activate, derivative
from groupnorm.ops.group_norm.memory import shape_of


def forward(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """y = activation(GN(x) * weight + bias + residual) (Wu & He 2018, equations 1 to 7).

    Differentiable operations only, so that autograd, forward mode and vmap go through it (autograd
    gives dx in the layout of dy; `backward` gives it in the input's).

    Args:
        input: x of shape (N, C, *).
        num_groups: G, a divisor of C; group g holds the channels g D ... (g + 1) D - 1.
        weight: gamma, shape (C,), or None.
        bias: beta, shape (C,), or None.
        eps: added to the biased variance inside the root.
        activation: a name of `groupnorm.ops.group_norm.activations.ACTIVATIONS`, or None.
        residual: same shape as the input, added before the activation, or None.

    Returns:
        y in the input's shape, dtype and memory format; mean and rstd of shape (N, G) in the
        statistics' dtype. A group without elements has mean 0 and rstd 1 / sqrt(eps).
    """
    x = grouped(input, num_groups)
    scale = range_scale(x)
    x = x * scale
    centred, mean = _centre(x, _group_mean(x).detach())
    rstd = torch.rsqrt(_group_mean(centred * centred) + eps)
    z = _pre_activation(centred * rstd, weight, bias, residual)
    y = activate(z, activation).to(input.dtype)
    shape_ng = x.shape[:2]
    return y, (mean / scale).reshape(shape_ng), (rstd * scale).reshape(shape_ng)


def backward(
    grad_output: Tensor,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `forward`, written by hand.

    With dz = dy * activation'(z), a = dz * weight and xhat = (x - mean) * rstd::

        dx = rstd * (a - mean_group(a) - xhat * mean_group(a * xhat))
        dweight = sum over N and S of dz * xhat;  dbias = sum of dz;  dresidual = dz

    Args:
        grad_output: dy, same shape as the input, in any layout.
        input: x, and with it num_groups, weight, bias, activation and residual as in `forward`.
        mean: mean and `rstd` as `forward` returned them, shape (N, G).

    Returns:
        dx and dresidual in the input's dtype and memory format; dweight and dbias (C,) in the
        statistics' dtype, also where the parameter is None.
    """
    x = grouped(input, num_groups)
    scale = range_scale(x)
    shape = (*x.shape[:2], *[1] * (x.dim() - 2))
    centred, _ = _centre(x * scale, mean.reshape(shape) * scale)
    rstd = rstd.reshape(shape) / scale
    xhat = centred * rstd
    z = _pre_activation(xhat, weight, bias, residual)
    dz = derivative(z, activation) * grad_output.to(x.dtype)  # in z's layout
    a = grouped(dz if weight is None else dz * _per_channel(weight, dz), num_groups)
    dx = scale * (rstd * (a - _group_mean(a) - xhat * _group_mean(xhat * a)))
    axes = [0, *range(2, input.dim())]
    dweight = (ungrouped(xhat) * dz).sum(axes)
    return ungrouped(dx).to(input.dtype), dweight, dz.sum(axes), dz.to(input.dtype)


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, float32 for every other dtype."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def grouped(x: Tensor, num_groups: int) -> Tensor:
    """(N, C, *) -> (N, G, D, *) in the statistics' dtype: a view, whatever the layout."""
    n, c, *spatial = x.shape
    return x.to(statistics_dtype(x.dtype)).view(n, num_groups, c // num_groups, *spatial)


# (a group with larger values is scaled, so that its largest becomes about this). Below the first
# number a square, and the sum of 2^40 of them, are finite; the second is so large that eps is
# negligible beside the smallest variance that such values can have, unless they are all equal.
_LARGE = {torch.float32: (2.0**44, 2.0**40), torch.float64: (2.0**480, 2.0**200)}


def range_scale(x: Tensor) -> Tensor:
    """A power of two for every group of x (N, G, D, *), shape (N, G, 1, ...): nearly always 1.

    Where values are so large that the sum of their squares may overflow, it makes them smaller
    (`_LARGE`). Groups of equal values, whose variance is 0, keep 1, and so do groups with infinite
    or undefined values.
    """
    values, axes = x.detach(), list(range(2, x.dim()))
    if shape_of(values).numel() == 0:
        return values.new_ones((*x.shape[:2], *[1] * (x.dim() - 2)))
    highest, lowest = values.amax(axes, keepdim=True), values.amin(axes, keepdim=True)
    largest = torch.maximum(highest, -lowest)
    power = 0.5 * largest / torch.frexp(largest).mantissa  # exact
    large, target = _LARGE[x.dtype]
    scaled = (largest > large) & torch.isfinite(largest) & (highest != lowest)
    return torch.where(scaled, target / power, 1.0)


def ungrouped(x: Tensor) -> Tensor:
    """(N, G, D, *) -> (N, C, *): a view, whatever the layout."""
    n, g, d, *spatial = x.shape
    return x.reshape(n, g * d, *spatial)


def _group_mean(x: Tensor) -> Tensor:
    """Mean of every group of x (N, G, D, *), shape (N, G, 1, ...); 0 for an empty group."""
    count = x[0, 0].numel() if shape_of(x).numel() else 1
    return x.sum(list(range(2, x.dim())), keepdim=True) / count


def _centre(x: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """x minus its group means, and the means.

    `shift` is the means rounded once, which is too coarse when they are far above the spread:
    what it leaves over is subtracted in turn.
    """
    centred = x - shift
    residual_mean = _group_mean(centred)
    return centred - residual_mean, shift + residual_mean


def _pre_activation(
    xhat: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None
) -> Tensor:
    """z (N, C, *) = xhat * weight + bias + residual, from xhat (N, G, D, *)."""
    z = ungrouped(xhat)
    if weight is not None:
        z = z * _per_channel(weight, z)
    if bias is not None:
        z = z + _per_channel(bias, z)
    if residual is not None:
        z = z + residual.to(z.dtype)
    return z


def _per_channel(values_c: Tensor, like: Tensor) -> Tensor:
    return values_c.to(like.dtype).view(-1, *[1] * (like.dim() - 2))
