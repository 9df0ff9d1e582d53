"""The Triton kernels as operators of PyTorch, which torch.compile looks into.

Where the sizes are numbers, what Inductor sees is the launches of the kernels. Where they are
symbols, because one graph is to serve several sizes, the launches cannot be settled in advance:
then it sees one opaque operator, which settles them for each call. The interpreter's kernels are
plain functions of real tensors and always stay behind the opaque operator.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op, triton_op, wrap_triton

from groupnorm.ops.group_norm.arguments import check_arguments
from groupnorm.ops.group_norm.kernel_gradients import (
    differentiate_again,
    fake_backward,
    fake_forward,
    gradients,
    keep_of_backward,
    keep_of_operator,
)
from groupnorm.ops.group_norm.triton import launch as triton_launch
from groupnorm.ops.group_norm.triton.backend import interpreted


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


@custom_op("groupnorm::triton_group_norm_opaque", mutates_args=())
def _opaque_forward(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str | None,
    residual: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Output, and mean and rstd as one tensor (2, N, G)."""
    y, statistics = triton_launch.launch_forward(
        input, num_groups, weight, bias, eps, activation, residual
    )
    assert statistics is not None
    return y, statistics


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
    arguments = (input, num_groups, weight, bias, eps, activation, residual)
    check_arguments(input, num_groups, weight, bias, activation, residual)
    if _opaque(input, num_groups):
        opaque: tuple[Tensor, Tensor] = _opaque_forward(*arguments)
        return opaque
    y, statistics = triton_launch.launch_forward(*arguments, launch=_traced)
    assert statistics is not None
    return y, statistics


@custom_op("groupnorm::triton_group_norm_backward_opaque", mutates_args=())
def _opaque_backward(
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
    return _launch_backward(
        grad_output, input, num_groups, weight, bias, statistics, activation, residual,
        needs_residual,
    )  # fmt: skip


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
    if _opaque(input, num_groups):
        opaque: tuple[Tensor, Tensor, Tensor, Tensor] = _opaque_backward(
            grad_output, input, num_groups, weight, bias, eps, statistics, activation, residual,
            needs_residual,
        )  # fmt: skip
        return opaque
    return _launch_backward(
        grad_output, input, num_groups, weight, bias, statistics, activation, residual,
        needs_residual, launch=_traced,
    )  # fmt: skip


def _traced(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    wrap_triton(kernel)[grid](*arguments, **options)


def _launch_backward(*arguments: Any, **options: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dx, dweight, dbias, dresidual = triton_launch.launch_backward(*arguments, **options)
    # An operator's results may not be views of the same memory.
    return dx, dweight.clone(), dbias, dx.new_empty(0) if dresidual is None else dresidual


def _opaque(input: Tensor, num_groups: int) -> bool:
    sizes = (*input.shape, num_groups)
    return interpreted or any(isinstance(size, torch.SymInt) for size in sizes)


def _differentiate(ctx: Any, grad_output: Tensor, unused: Tensor) -> tuple[Any, ...]:
    return gradients(ctx, grad_output, _backward)


_opaque_forward.register_fake(fake_forward)
_opaque_backward.register_fake(fake_backward)
_forward.register_autograd(_differentiate, setup_context=keep_of_operator)
_backward.register_autograd(differentiate_again, setup_context=keep_of_backward)
