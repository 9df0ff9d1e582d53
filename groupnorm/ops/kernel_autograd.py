"""Kernels as a backend: eager autograd, and what goes around them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from groupnorm.ops import backend_aten, reference
from groupnorm.ops.kernel_gradients import gradients, keep


class Kernels(NamedTuple):
    """One implementation by kernels.

    Attributes:
        launch_forward: arguments of `run` after the first, and `with_statistics`; gives y, and mean
            and rstd as one tensor (2, N, G), or None.
        launch_backward: (dy, input, num_groups, weight, bias, statistics, activation, residual,
            needs_residual) -> dx, dweight, dbias, dresidual or None.
        operator: the same as an operator of PyTorch, for torch.compile; gives y.
    """

    launch_forward: Callable[..., tuple[Tensor, Tensor | None]]
    launch_backward: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor | None]]
    operator: Callable[..., Tensor]


def run(
    kernels: Kernels,
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
        if backend_aten.exporting():
            return backend_aten.forward(*arguments)
        return kernels.operator(*arguments)
    if _transformed() or torch._C._get_tracing_state() is not None:
        return backend_aten.forward(*arguments)
    if torch._C._len_torch_dispatch_stack() or type(input) not in _PLAIN:
        return kernels.operator(*arguments)
    if torch.is_grad_enabled() and (
        input.requires_grad
        or (weight is not None and weight.requires_grad)
        or (bias is not None and bias.requires_grad)
        or (residual is not None and residual.requires_grad)
    ):
        y: Tensor = _Function.apply(*arguments, kernels)
        return y
    return kernels.launch_forward(*arguments, with_statistics=False)[0]


_PLAIN = (Tensor, torch.nn.Parameter)


def _transformed() -> bool:
    """Inside a transformation of `torch.func`, or forward-mode differentiation."""
    return forward_ad._current_level >= 0 or torch._C._functorch.maybe_current_level() is not None


class _Function(torch.autograd.Function):
    """The kernels in PyTorch's graph. Keeps the input, and mean and rstd of each group."""

    @staticmethod
    def forward(ctx: Any, *inputs_and_kernels: Any) -> Tensor:
        *inputs, kernels = inputs_and_kernels
        y: Tensor
        y, statistics = kernels.launch_forward(*inputs)
        keep(ctx, tuple(inputs), statistics)
        ctx.kernels = kernels
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        def backward(*arguments: Any) -> Any:
            if torch.is_grad_enabled():
                return _differentiable_backward(*arguments)
            return ctx.kernels.launch_backward(*arguments[:5], *arguments[6:])

        return (*gradients(ctx, grad_outputs[0], backward), None)


def _differentiable_backward(
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
    """By the reference, where the gradients are to be differentiated again."""
    _, mean, rstd = reference.forward(input, num_groups, weight, bias, eps, activation, residual)
    return reference.backward(
        grad_output, input, num_groups, weight, bias, mean, rstd, activation, residual
    )
