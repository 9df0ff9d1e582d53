"""The Triton kernels as operators of PyTorch, which torch.compile looks into."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor
from torch.library import triton_op, wrap_triton

from groupnorm.ops import triton_launch
from groupnorm.ops.backend_triton import interpreted
from groupnorm.ops.kernel_gradients import (
    differentiate_again,
    gradients,
    keep_of_backward,
    keep_of_operator,
)

# Interpreted kernels are plain functions, which PyTorch need not and cannot wrap.
_launcher: triton_launch.Launcher = (lambda kernel: kernel) if interpreted else wrap_triton
_launch_forward = partial(triton_launch.launch_forward, launcher=_launcher)
_launch_backward = partial(triton_launch.launch_backward, launcher=_launcher)


def operator(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str | None,
    residual: Tensor | None,
) -> Tensor:
    """`torch.ops.groupnorm.triton_group_norm` without the statistics."""
    y: Tensor = _forward(input, num_groups, weight, bias, eps, activation, residual)[0]
    return y


@triton_op("groupnorm::triton_group_norm", mutates_args=())
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
    y, statistics = _launch_forward(input, num_groups, weight, bias, eps, activation, residual)
    assert statistics is not None
    return y, statistics


@triton_op("groupnorm::triton_group_norm_backward", mutates_args=())
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
    dx, dweight, dbias, dresidual = _launch_backward(
        grad_output, input, num_groups, weight, bias, statistics, activation, residual,
        needs_residual,
    )  # fmt: skip
    return dx, dweight, dbias, input.new_empty(0) if dresidual is None else dresidual


def _differentiate(ctx: Any, grad_output: Tensor, unused: Tensor) -> tuple[Any, ...]:
    return gradients(ctx, grad_output, _backward)


_forward.register_autograd(_differentiate, setup_context=keep_of_operator)
_backward.register_autograd(differentiate_again, setup_context=keep_of_backward)
