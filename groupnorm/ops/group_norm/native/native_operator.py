"""The C++ kernels as operators of PyTorch: for torch.compile and for tensors without memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from groupnorm.ops.group_norm.arguments import check_arguments
from groupnorm.ops.group_norm.kernel_gradients import (
    differentiate_again,
    fake_backward,
    fake_forward,
    gradients,
    keep_of_backward,
    keep_of_operator,
)
from groupnorm.ops.group_norm.native.launch import launch_backward, launch_forward


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
    check_arguments(input, num_groups, weight, bias, activation, residual)
    y, statistics = launch_forward(input, num_groups, weight, bias, eps, activation, residual)
    assert statistics is not None
    return y, statistics


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


def _differentiate(ctx: Any, grad_output: Tensor, unused: Tensor) -> tuple[Any, ...]:
    return gradients(ctx, grad_output, _backward)


_forward.register_fake(fake_forward)
_backward.register_fake(fake_backward)
_forward.register_autograd(_differentiate, setup_context=keep_of_operator)
_backward.register_autograd(differentiate_again, setup_context=keep_of_backward)
