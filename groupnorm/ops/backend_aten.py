"""PyTorch's own operator, made accurate where it is not."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from groupnorm.ops.activations import activate
from groupnorm.ops.reference import memory_format_of, statistics_dtype


def forward(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str | None,
    residual: Tensor | None,
) -> Tensor:
    """y = activation(GN(x) * weight + bias + residual), through `torch.nn.functional.group_norm`.

    On the CPU PyTorch computes the variance of channels_last input as E[x^2] - E[x]^2, which is
    wrong for data with an offset. Group norm does not change when a group is shifted, so a
    per-group shift to about zero mean goes first; it is a constant to autograd, and the gradient
    is exact all the same.
    """
    if torch.compiler.is_exporting() or not needs_shift(input):
        weight, bias = _matching(input, weight), _matching(input, bias)
        y = F.group_norm(input, num_groups, weight, bias, eps)
    else:
        shifted = _shifted(input, num_groups)
        weight, bias = _matching(shifted, weight), _matching(shifted, bias)
        y = F.group_norm(shifted, num_groups, weight, bias, eps).to(input.dtype)
    y = y.contiguous(memory_format=memory_format_of(input))
    if residual is not None:
        y = y + residual
    return activate(y, activation)


def needs_shift(input: Tensor) -> bool:
    """True where PyTorch's operator takes its one-pass variance: CPU, not contiguous as NCHW."""
    return input.device.type == "cpu" and input.dim() >= 4 and not input.is_contiguous()


def _shifted(input: Tensor, num_groups: int) -> Tensor:
    n, c = input.shape[:2]
    if input.numel() == 0:
        return input
    x = input.to(statistics_dtype(input))
    with torch.no_grad():
        spatial = list(range(2, x.dim()))
        pivot = x.mean(spatial).view(n, num_groups, -1).mean(2)
        pivot = pivot.repeat_interleave(c // num_groups, dim=1).view(n, c, *[1] * len(spatial))
    return x - pivot


def _matching(input: Tensor, parameter: Tensor | None) -> Tensor | None:
    """PyTorch takes parameters of the input's dtype, and float32 ones with half input on the CPU."""
    if parameter is None or parameter.dtype == input.dtype:
        return parameter
    if parameter.dtype == torch.float32 and input.device.type == "cpu":
        return parameter
    return parameter.to(input.dtype)
