"""Kernels as a backend: when they run, and their gradients in eager mode and as operators."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from groupnorm.ops.group_norm import aten, reference
from groupnorm.ops.group_norm.layout import dense
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
        if aten.exporting():
            return aten.forward(*arguments)
        return kernels.operator(*arguments)
    if transformed():
        return aten.forward(*arguments)
    observed = torch._C._len_torch_dispatch_stack() > 0  # by a mode that sees every operation
    if observed or not looks_plain(input, weight, bias, residual):
        if not all_plain(input, weight, bias, residual):
            return (kernels.operator if _is_fake(input) else aten.forward)(*arguments)
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
        return aten.forward(*arguments)


def _is_fake(tensor: Tensor) -> bool:
    from torch._subclasses.fake_tensor import FakeTensor

    return isinstance(tensor, FakeTensor)


class GroupNorm(torch.autograd.Function):
    """The kernels in PyTorch's graph, as `GroupNormBackward`."""

    @staticmethod
    def forward(ctx: Any, *inputs_and_kernels: Any) -> Tensor:
        """y; saves the input, and mean and rstd of each group."""
        *inputs, kernels = inputs_and_kernels
        y: Tensor
        y, statistics = kernels.launch_forward(*inputs)
        save_for_backward(ctx, tuple(inputs), statistics)
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


# ---- what both eager autograd and the operators do -----------------------------------------------


def save_for_backward(ctx: Any, inputs: tuple[Any, ...], statistics: Tensor | None) -> None:
    """Save the input, mean and rstd of each group, and what the activation's slope needs."""
    input, num_groups, weight, bias, eps, activation, residual = inputs
    ctx.bias_dtype = None if bias is None else bias.dtype
    if activation is None:  # else its slope depends on both
        bias = residual = None
    ctx.save_for_backward(input, weight, bias, residual, statistics)
    ctx.num_groups, ctx.eps, ctx.activation = num_groups, eps, activation


def gradients(ctx: Any, grad_output: Tensor, backward: Callable[..., Any]) -> tuple[Any, ...]:
    """The gradients of the seven inputs, from what `save_for_backward` saved.

    Args:
        backward: takes the arguments of `torch.ops.groupnorm.group_norm_backward`.
    """
    needs = ctx.needs_input_grad
    if ctx.activation is None and not (needs[0] or needs[2] or needs[3]):
        return None, None, None, None, None, None, grad_output
    input, weight, bias, residual, statistics = ctx.saved_tensors
    dx, dweight, dbias, dresidual = backward(
        grad_output, input, ctx.num_groups, weight, bias, ctx.eps, statistics, ctx.activation,
        residual, needs[6] and ctx.activation is not None,
    )  # fmt: skip
    if ctx.activation is None:
        dresidual = grad_output
    return (
        dx if needs[0] else None,
        None,
        dweight.to(weight.dtype) if needs[2] else None,
        dbias.to(ctx.bias_dtype) if needs[3] else None,
        None,
        None,
        dresidual if needs[6] else None,
    )


# ---- what the operators need besides ------------------------------------------------------------


def fake_forward(
    input: Tensor, num_groups: int, weight: Any, bias: Any, eps: float, activation: Any,
    residual: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Output, and mean and rstd (2, N, G), of a forward operator: shapes and strides only."""
    dtype = reference.statistics_dtype(input.dtype)
    statistics = input.new_empty((2, input.shape[0], num_groups), dtype=dtype)
    return torch.empty_like(dense(input)[0]), statistics


def fake_backward(
    grad_output: Tensor, input: Tensor, num_groups: int, weight: Any, bias: Any, eps: float,
    statistics: Tensor, activation: Any, residual: Any, needs_residual: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """dx, dweight, dbias, dresidual of a backward operator: shapes and strides only."""
    dx = torch.empty_like(dense(input)[0])
    dweight = statistics.new_empty(input.shape[1])
    dresidual = torch.empty_like(dx) if needs_residual else input.new_empty(0)
    return dx, dweight, torch.empty_like(dweight), dresidual


def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """`save_for_backward`, for an operator that gives output and statistics."""
    ctx.mark_non_differentiable(output[1])
    save_for_backward(ctx, inputs, output[1])


def setup_double_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """Save for the gradients of the gradients, for an operator that gives gradients."""
    grad_output, input, num_groups, weight, bias, eps, _, activation, residual, _ = inputs
    ctx.save_for_backward(grad_output, input, weight, bias, residual)
    ctx.num_groups, ctx.eps, ctx.activation = num_groups, eps, activation


def double_backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
    """Gradients of the gradients, through the differentiable reference."""
    saved = ctx.saved_tensors
    with torch.enable_grad():
        tensors = [None if t is None else t.detach().requires_grad_() for t in saved]
        grad_output, input, weight, bias, residual = tensors
        assert grad_output is not None
        assert input is not None
        _, mean, rstd = reference.forward(
            input, ctx.num_groups, weight, bias, ctx.eps, ctx.activation, residual
        )
        results = reference.backward(
            grad_output, input, ctx.num_groups, weight, bias, mean, rstd, ctx.activation, residual
        )
        pairs = [
            (result, gradient.to(result.dtype))
            for result, gradient in zip(results, gradients, strict=True)
            if gradient is not None and gradient.shape == result.shape and result.requires_grad
        ]
        found = torch.autograd.grad(
            [result for result, _ in pairs],
            [t for t in tensors if t is not None],
            [gradient for _, gradient in pairs],
            allow_unused=True,
        )
    remaining = iter(found)
    d_grad, d_input, d_weight, d_bias, d_residual = (
        None if t is None else next(remaining) for t in tensors
    )
    return d_grad, d_input, None, d_weight, d_bias, None, None, None, d_residual, None
