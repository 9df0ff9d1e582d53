"""The C++ kernels as operators of PyTorch: for torch.compile and for tensors without memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from groupnorm.ops import reference
from groupnorm.ops.dense import dense
from groupnorm.ops.kernel_gradients import (
    differentiate_again,
    gradients,
    keep_of_backward,
    keep_of_operator,
)
from groupnorm.ops.native_launch import launch_backward, launch_forward


def operator(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str | None,
    residual: Tensor | None,
) -> Tensor:
    """`torch.ops.groupnorm.group_norm` without the statistics."""
    y: Tensor = _forward(input, num_groups, weight, bias, eps, activation, residual)[0]
    return y


@torch.library.custom_op("groupnorm::group_norm", mutates_args=(), device_types="cpu")
def _forward(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str | None,
    residual: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Output, and mean and rstd as one tensor (2, N, G)."""
    y, statistics = launch_forward(input, num_groups, weight, bias, eps, activation, residual)
    assert statistics is not None
    return y, statistics


@_forward.register_fake
def _(
    input: Tensor, num_groups: int, weight: Any, bias: Any, eps: float, activation: Any,
    residual: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    dtype = reference.statistics_dtype(input.dtype)
    statistics = input.new_empty((2, input.shape[0], num_groups), dtype=dtype)
    return torch.empty_like(dense(input)[0]), statistics


@torch.library.custom_op("groupnorm::group_norm_backward", mutates_args=(), device_types="cpu")
def _backward(
    grad_output: Tensor,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    statistics: Tensor,
    activation: str | None,
    residual: Tensor | None,
    needs_residual: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dx, dweight, dbias, dresidual; the last is empty unless it is needed."""
    dx, dweight, dbias, dresidual = launch_backward(
        grad_output, input, num_groups, weight, bias, statistics, activation, residual,
        needs_residual,
    )  # fmt: skip
    return dx, dweight, dbias, input.new_empty(0) if dresidual is None else dresidual


@_backward.register_fake
def _(
    grad_output: Tensor, input: Tensor, num_groups: int, weight: Any, bias: Any, eps: float,
    statistics: Tensor, activation: Any, residual: Any, needs_residual: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    dx = torch.empty_like(dense(input)[0])
    dweight = statistics.new_empty(input.shape[1])
    dresidual = torch.empty_like(dx) if needs_residual else input.new_empty(0)
    return dx, dweight, torch.empty_like(dweight), dresidual


def _differentiate(ctx: Any, grad_output: Tensor, unused: Tensor) -> tuple[Any, ...]:
    return gradients(ctx, grad_output, _backward)


_forward.register_autograd(_differentiate, setup_context=keep_of_operator)
_backward.register_autograd(differentiate_again, setup_context=keep_of_backward)
