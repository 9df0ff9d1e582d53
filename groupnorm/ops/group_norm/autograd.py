"""Kernels as a backend: eager autograd, and what goes around them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from groupnorm.ops.group_norm import aten as backend_aten
from groupnorm.ops.group_norm import reference
from groupnorm.ops.group_norm.kernel_gradients import gradients, keep
from groupnorm.ops.group_norm.memory import all_plain, check_memory, looks_plain, transformed


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
    """y = activation(GN(x) * weight + bias + residual); see `reference.forward`.

    Forward-mode differentiation, vmap and `torch.export` go through PyTorch's operator, and so does
    every call with a tensor that is not plain memory (`all_plain`): what differentiates, transforms
    or wraps needs operations it knows.
    """
    arguments = (input, num_groups, weight, bias, eps, activation, residual)
    if torch.compiler.is_compiling():
        if backend_aten.exporting():
            return backend_aten.forward(*arguments)
        return kernels.operator(*arguments)
    if transformed():
        return backend_aten.forward(*arguments)
    observed = torch._C._len_torch_dispatch_stack() > 0  # by a mode that sees every operation
    if observed or not looks_plain(input, weight, bias, residual):
        if not all_plain(input, weight, bias, residual):
            return (kernels.operator if _is_fake(input) else backend_aten.forward)(*arguments)
        if observed:
            return kernels.operator(*arguments)
    try:
        if torch.is_grad_enabled() and (
            input.requires_grad
            or (weight is not None and weight.requires_grad)
            or (bias is not None and bias.requires_grad)
            or (residual is not None and residual.requires_grad)
        ):
            y: Tensor = GroupNorm.apply(*arguments, kernels)
            return y
        return kernels.launch_forward(*arguments, False)[0]  # without statistics
    except RuntimeError:
        if all_plain(input, weight, bias, residual):  # a storage was freed
            raise
        return backend_aten.forward(*arguments)


def _is_fake(tensor: Tensor) -> bool:
    from torch._subclasses.fake_tensor import FakeTensor

    return isinstance(tensor, FakeTensor)


class GroupNorm(torch.autograd.Function):
    """The kernels in PyTorch's graph, as `GroupNormBackward`."""

    @staticmethod
    def forward(ctx: Any, *inputs_and_kernels: Any) -> Tensor:
        """y; keeps the input, and mean and rstd of each group."""
        *inputs, kernels = inputs_and_kernels
        y: Tensor
        y, statistics = kernels.launch_forward(*inputs)
        keep(ctx, tuple(inputs), statistics)
        ctx.kernels = kernels
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        """The gradients of what went in."""
        return (*gradients(ctx, grad_outputs[0], partial(_backward, ctx.kernels)), None)


def _backward(
    kernels: Kernels,
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
    """By the kernels, where nothing but memory goes in and nothing but numbers comes out.

    Not so where gradients are to be differentiated again or batched, or where a mode sees every
    operation: then by the reference.
    """
    tensors = (grad_output, input, weight, bias, statistics, residual)
    if forward_ad._current_level >= 0:
        _check_no_tangent(tensors)
    if (
        not torch.is_grad_enabled()
        and torch._C._functorch.maybe_current_level() is None
        and not torch._C._len_torch_dispatch_stack()
        and (looks_plain(*tensors) or all_plain(*tensors))
    ):
        try:
            return kernels.launch_backward(
                grad_output, input, num_groups, weight, bias, statistics, activation, residual,
                needs_residual,
            )  # fmt: skip
        except RuntimeError:
            if all_plain(*tensors):
                raise
    check_memory(*tensors)
    _, mean, rstd = reference.forward(input, num_groups, weight, bias, eps, activation, residual)
    return reference.backward(
        grad_output, input, num_groups, weight, bias, mean, rstd, activation, residual
    )


def _check_no_tangent(tensors: tuple[Tensor | None, ...]) -> None:
    """Raise NotImplementedError, as PyTorch's group norm does, where a tangent would be lost."""
    unpack: Any = forward_ad.unpack_dual
    if any(t is not None and unpack(t).tangent is not None for t in tensors):
        raise NotImplementedError(
            "the gradients of group norm have no forward-mode derivative, but the incoming "
            "gradient, or what was saved for the backward pass, has a tangent. Use reverse mode "
            "for both: torch.autograd.grad(..., create_graph=True)"
        )
