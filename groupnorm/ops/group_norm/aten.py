"""PyTorch's own operator, made accurate where it is not."""

from __future__ import annotations

import torch
from torch import Tensor

from groupnorm.ops.group_norm import reference
from groupnorm.ops.group_norm.activations import activate
from groupnorm.ops.group_norm.memory import (
    all_plain,
    check_memory,
    is_wrapper,
    shape_of,
    transformed,
)


def forward(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """y = activation(GN(x) * weight + bias + residual), through `torch.group_norm`.

    On the CPU PyTorch computes the variance of channels_last input as E[x^2] - E[x]^2, which is
    wrong for data with an offset. Group norm does not change when a group is shifted, so a
    per-group shift to about zero mean goes first; it is a constant to autograd, and the gradient
    is exact all the same. Half input is computed in float32 there, for PyTorch would keep mean and
    rstd in half precision for the backward pass. Groups so large that PyTorch's sum of squares
    would overflow are multiplied by a power of two where their values can be looked at: on the CPU,
    and neither transformed nor compiled. Under `torch.export`, and for the tensors of a class that
    takes over every operation (DTensor, say), PyTorch's operator sees the input as it is.

    Args, returns: as `groupnorm.ops.group_norm.reference.forward`, without the statistics.
    """
    x = input
    if not (torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None):
        check_memory(input, weight, bias, residual)
    if not exporting():
        if shape_of(input).numel() == 0:  # PyTorch refuses empty spatial axes
            return reference.forward(input, num_groups, weight, bias, eps, activation, residual)[0]
        x = input.to(_compute_dtype(input, weight, bias))
        if not is_wrapper(input):
            if input.device.type == "cpu" and _can_look_at(input):
                x = _in_range(x, num_groups)
            if needs_shift(input):
                x = _shifted(x, num_groups)
    y = _group_norm(x, num_groups, weight, bias, eps)
    if residual is not None:
        y = y + _cast(residual, y.dtype)
    return _cast(activate(y, activation), input.dtype)


def needs_shift(input: Tensor) -> bool:
    """True where PyTorch may take its one-pass variance: CPU, strides not those of (N, C, *).

    Half input, which is converted anyway, is shifted in every layout: PyTorch normalizes as
    a * x + b, which loses digits when the spread is far below the mean. Strides decide, not
    `is_contiguous()`: input of one channel or one position is contiguous in both layouts, and
    PyTorch tells them apart by the strides of the axes of length 1.
    """
    if input.device.type != "cpu":
        return False
    if input.dtype in (torch.float16, torch.bfloat16):
        return True
    expected = 1
    for size, stride in zip(reversed(shape_of(input)), reversed(input.stride()), strict=True):
        if stride != expected:
            return True
        expected *= size
    return False


def _group_norm(
    x: Tensor, num_groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    # torch.nn.functional.group_norm refuses a batch with one value in all; the operator does not.
    weight = None if weight is None else _cast(weight, x.dtype)
    bias = None if bias is None else _cast(bias, x.dtype)
    if weight is None and bias is not None and not exporting():
        weight = torch.ones_like(bias)  # PyTorch before 2.14 cannot differentiate a bias alone
    return torch.group_norm(x, num_groups, weight, bias, eps, torch.backends.cudnn.enabled)


def _cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x if x.dtype == dtype else x.to(dtype)  # torch.export records even an idle `to`


def _compute_dtype(input: Tensor, weight: Tensor | None, bias: Tensor | None) -> torch.dtype:
    half_all = all(p is None or p.dtype == input.dtype for p in (weight, bias))
    if input.device.type != "cpu" and half_all:
        return input.dtype
    return reference.statistics_dtype(input.dtype)


def _can_look_at(x: Tensor) -> bool:
    """Whether what is computed may depend on values."""
    return not (
        torch.compiler.is_compiling() or transformed() or torch._C._len_torch_dispatch_stack()
    ) and all_plain(x)


def _in_range(x: Tensor, num_groups: int) -> Tensor:
    """x (N, C, *) with groups whose squares overflow scaled: `reference.range_scale`."""
    groups = reference.grouped(x, num_groups)
    scale = reference.range_scale(groups)
    return x if bool((scale == 1).all()) else reference.ungrouped(groups * scale)


def _shifted(x: Tensor, num_groups: int) -> Tensor:
    """x (N, C, *) minus its group means, the means being constants to autograd."""
    if shape_of(x).numel() == 0:
        return x
    n, c = x.shape[:2]
    spatial = [1] * (x.dim() - 2)
    # Channel by channel first: on channels_last that reads memory in order, and is twice as fast.
    means = x.detach().mean(list(range(2, x.dim()))) if spatial else x.detach()
    means = means.view(n, num_groups, -1).mean(2).repeat_interleave(c // num_groups, dim=1)
    return x - means.view(n, c, *spatial)


def exporting() -> bool:
    """Whether `torch.export` runs.

    Not `torch.compiler.is_exporting()`, which under torch.compile was always true up to torch 2.11
    at least.
    """
    return torch.compiler._is_exporting_flag
