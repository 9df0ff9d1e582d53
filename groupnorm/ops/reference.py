"""The specification: group normalization forward and backward in plain PyTorch, any float dtype.

Letters: N batch, C channels, G groups, D = C / G channels per group, S = product of the spatial
axes. All other backends are compared with these two functions and nothing else.

Numeric contract: biased variance, eps inside the root, statistics in float32 for half and single
input and in float64 for double, two passes, normalization in centred form, mean and rstd kept in
the statistics' dtype, output in the input's dtype.
"""

from __future__ import annotations

import torch
from torch import Tensor

from groupnorm.ops.activations import activate, derivative


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

    Args:
        input: x of shape (N, C, *).
        num_groups: G, a divisor of C; group g holds the channels g D ... (g + 1) D - 1.
        weight: gamma, shape (C,), or None.
        bias: beta, shape (C,), or None.
        residual: same shape as the input, added before the activation, or None.

    Returns:
        y in the input's shape and dtype; mean and rstd of shape (N, G) in the statistics' dtype.
    """
    mean, rstd = statistics(input, num_groups, eps)
    z = _pre_activation(input, num_groups, weight, bias, residual, mean, rstd)
    return _like(activate(z, activation), input), mean, rstd


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
        mean: mean and `rstd` as `forward` returned them, shape (N, G).

    Returns:
        dx and dresidual in the input's dtype and layout; dweight and dbias (C,) in the
        statistics' dtype, also where the parameter is None.
    """
    n, c = input.shape[:2]
    dtype = statistics_dtype(input)
    shape = (n, num_groups, -1) if input.numel() else (n, num_groups, 0)
    z = _pre_activation(input, num_groups, weight, bias, residual, mean, rstd)
    dz = grad_output.to(dtype) * derivative(z, activation)
    xhat = _centred(input, num_groups, mean) * _per_group(rstd, input)
    a = dz if weight is None else dz * _per_channel(weight, input)
    a_g, xhat_g = a.reshape(shape), xhat.reshape(shape)
    count = max(input.numel() // max(n * num_groups, 1), 1)
    mean_a = a_g.sum(2, keepdim=True) / count
    mean_ax = (a_g * xhat_g).sum(2, keepdim=True) / count
    dx = rstd.unsqueeze(2) * (a_g - mean_a - xhat_g * mean_ax)
    axes = [0, *range(2, input.dim())]
    return (
        _like(dx.reshape(input.shape), input),
        (dz * xhat).sum(axes),
        dz.sum(axes),
        _like(dz, input),
    )


def statistics_dtype(input: Tensor) -> torch.dtype:
    """float64 for double input, float32 for everything else."""
    return torch.float64 if input.dtype == torch.float64 else torch.float32


def statistics(input: Tensor, num_groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and 1 / sqrt(biased variance + eps) of every group, each (N, G), in two passes.

    A group without elements has mean 0 and rstd 1 / sqrt(eps).
    """
    n = input.shape[0]
    if input.numel() == 0:
        zeros = input.new_zeros((n, num_groups), dtype=statistics_dtype(input))
        return zeros, torch.rsqrt(zeros + eps)
    x = input.to(statistics_dtype(input)).reshape(n, num_groups, -1)
    mean = x.mean(2)
    variance = (x - mean.unsqueeze(2)).square().mean(2)
    return mean, torch.rsqrt(variance + eps)


def _pre_activation(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
) -> Tensor:
    z = _centred(input, num_groups, mean) * _per_group(rstd, input)
    if weight is not None:
        z = z * _per_channel(weight, input)
    if bias is not None:
        z = z + _per_channel(bias, input)
    if residual is not None:
        z = z + residual.to(z.dtype)
    return z


def _centred(input: Tensor, num_groups: int, mean: Tensor) -> Tensor:
    return input.to(mean.dtype) - _per_group(mean, input)


def _per_group(values_ng: Tensor, input: Tensor) -> Tensor:
    """(N, G) -> (N, C, 1, ...), every value repeated for its group's channels."""
    n, c = input.shape[:2]
    repeated = values_ng.repeat_interleave(c // values_ng.shape[1], dim=1)
    return repeated.view(n, c, *[1] * (input.dim() - 2))


def _per_channel(values_c: Tensor, input: Tensor) -> Tensor:
    return values_c.to(statistics_dtype(input)).view(1, -1, *[1] * (input.dim() - 2))


def _like(value: Tensor, input: Tensor) -> Tensor:
    """`value` in the dtype and memory format of `input`."""
    return value.to(input.dtype).contiguous(memory_format=memory_format_of(input))


def memory_format_of(input: Tensor) -> torch.memory_format:
    """The memory format that a result should have: the input's, contiguous when in doubt."""
    if input.is_contiguous():
        return torch.contiguous_format
    if input.dim() == 4 and input.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    if input.dim() == 5 and input.is_contiguous(memory_format=torch.channels_last_3d):
        return torch.channels_last_3d
    return torch.contiguous_format
