"""The C++ kernels for the CPU as a backend: eager autograd, and what goes around them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from groupnorm.ops import backend_aten, reference
from groupnorm.ops.native_launch import launch_backward, launch_forward
from groupnorm.ops.native_operator import gradients, keep, operator


def forward(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """y = activation(GN(x) * weight + bias + residual); see `groupnorm.ops.reference.forward`.

    Forward-mode differentiation, vmap and `torch.export` go through PyTorch's operator, and so does
    a tensor subclass: what differentiates or transforms needs operations it knows.
    """
    arguments = (input, num_groups, weight, bias, eps, activation, residual)
    if torch.compiler.is_compiling():
        if torch.compiler.is_exporting():
            return backend_aten.forward(*arguments)
        return operator(*arguments)
    if _transformed() or torch._C._get_tracing_state() is not None:
        return backend_aten.forward(*arguments)
    if torch._C._len_torch_dispatch_stack() or type(input) not in _PLAIN:
        return operator(*arguments)
    if torch.is_grad_enabled() and (
        input.requires_grad
        or (weight is not None and weight.requires_grad)
        or (bias is not None and bias.requires_grad)
        or (residual is not None and residual.requires_grad)
    ):
        y: Tensor = _Function.apply(*arguments)
        return y
    return launch_forward(*arguments, with_statistics=False)[0]


_PLAIN = (Tensor, torch.nn.Parameter)


def _transformed() -> bool:
    """Inside a transformation of `torch.func`, or forward-mode differentiation."""
    return forward_ad._current_level >= 0 or torch._C._functorch.maybe_current_level() is not None


class _Function(torch.autograd.Function):
    """The kernels in PyTorch's graph. Keeps the input, and mean and rstd of each group."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        y, statistics = launch_forward(*inputs)
        keep(ctx, inputs, statistics)
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        return gradients(ctx, grad_outputs[0], _backward)


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
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """By the kernels; by the reference where the gradients are to be differentiated again."""
    if not torch.is_grad_enabled():
        return launch_backward(
            grad_output, input, num_groups, weight, bias, statistics, activation, residual,
            needs_residual,
        )  # fmt: skip
    _, mean, rstd = reference.forward(input, num_groups, weight, bias, eps, activation, residual)
    return reference.backward(
        grad_output, input, num_groups, weight, bias, mean, rstd, activation, residual
    )
