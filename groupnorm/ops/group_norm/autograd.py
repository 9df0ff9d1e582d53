"""Kernels as a backend: when they run, and their gradients in eager mode and as operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from groupnorm.ops.group_norm import aten, reference
from groupnorm.ops.group_norm.layout import dense
from groupnorm.ops.group_norm.memory import (
    all_plain,
    check_memory,
    looks_plain,
    transformed,
    unobserved,
)


class Kernels(NamedTuple):
    """One implementation by kernels.

    Attributes:
        launch_forward: arguments of `run` after the first, and `with_statistics`; gives y, and the
            statistics of the groups, mean and rstd first, as one tensor, or None.
        launch_backward: (dy, input, num_groups, weight, bias, statistics, activation, residual,
            needs_residual) -> dx, dweight, dbias, dresidual or None.
        operator: the same as an operator of PyTorch, for torch.compile; gives y.
        quick_backward: as `launch_backward`, but None where a tensor is not plain memory that fits;
            or None for kernels that do not look at it themselves.
    """

    launch_forward: Callable[..., tuple[Tensor, Tensor | None]]
    launch_backward: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor | None]]
    operator: Callable[..., Tensor]
    quick_backward: Callable[..., Any] | None = None


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
    tensors = (input, weight, bias, residual)
    if torch.compiler.is_compiling():
        if aten.exporting():
            return aten.forward(*arguments)
        return kernels.operator(*arguments)
    if transformed():
        return aten.forward(*arguments)
    observed = torch._C._len_torch_dispatch_stack() > 0  # by a mode that sees every operation
    if observed or not looks_plain(*tensors):
        if not all_plain(*tensors):
            return (kernels.operator if _is_fake(input) else aten.forward)(*arguments)
        if observed:
            return kernels.operator(*arguments)
    differentiable = needs_gradients(*tensors)
    try:
        with torch.no_grad():
            y, statistics = kernels.launch_forward(*arguments, differentiable)
    except RuntimeError:
        if all_plain(*tensors):  # a storage was freed
            raise
        return aten.forward(*arguments)
    if differentiable:
        y = with_gradients(
            input, weight, bias, residual, (y, statistics, (kernels, num_groups, eps, activation))
        )
    return y


def needs_gradients(*tensors: Tensor | None) -> bool:
    """Whether autograd is to see a call with these tensors."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _is_fake(tensor: Tensor) -> bool:
    from torch._subclasses.fake_tensor import FakeTensor

    return isinstance(tensor, FakeTensor)


class GroupNorm(torch.autograd.Function):
    """What kernels have computed in PyTorch's graph, as `GroupNormBackward`."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        computed: Any,
    ) -> Tensor:
        """y of (y, statistics, (kernels, num_groups, eps, activation)).

        Saves the input, each group's statistics, and what the activation's slope needs. Few
        arguments and attributes, because each costs as much as a small tensor's arithmetic.
        """
        y: Tensor
        y, statistics, ctx.call = computed
        if ctx.call[3] is None:
            bias = residual = None
        ctx.save_for_backward(input, weight, bias, residual, statistics)
        return y

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of what went in; PyTorch converts them to the dtypes of the parameters.

        By the kernels, where nothing but memory goes in and nothing but numbers comes out; by the
        reference where gradients are to be differentiated again or batched, or where a mode sees
        every operation.
        """
        needs = ctx.needs_input_grad
        kernels, num_groups, eps, activation = ctx.call
        if activation is None and not (needs[0] or needs[1] or needs[2]):
            return None, None, None, grad_output, None
        input, weight, bias, residual, statistics = ctx.saved_tensors
        found = None
        needs_residual = needs[3] and activation is not None
        if unobserved() and not torch.is_grad_enabled():
            arguments = (
                grad_output, input, num_groups, weight, bias, statistics, activation, residual,
                needs_residual,
            )  # fmt: skip
            if kernels.quick_backward is not None:
                found = kernels.quick_backward(*arguments)
            if found is None and all_plain(grad_output, input, weight, bias, statistics, residual):
                found = kernels.launch_backward(*arguments)
        dx, dweight, dbias, dresidual = found or _by_reference(
            grad_output, input, num_groups, weight, bias, eps, activation, residual, statistics
        )
        return (
            dx if needs[0] else None,
            dweight if needs[1] else None,
            dbias if needs[2] else None,
            dresidual if needs_residual else grad_output if needs[3] else None,
            None,
        )


# Without a look for transforms, of which there are none where kernels run.
with_gradients = super(torch.autograd.Function, GroupNorm).apply


def _by_reference(
    grad_output: Tensor,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str | None,
    residual: Tensor | None,
    statistics: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tensors = (grad_output, input, weight, bias, residual, statistics)
    if forward_ad._current_level >= 0:
        _check_no_tangent(tensors)
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


# ---- what the operators need ---------------------------------------------------------------------


def save_for_backward(ctx: Any, inputs: tuple[Any, ...], statistics: Tensor | None) -> None:
    """Save the input, each group's statistics, and what the activation's slope needs."""
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


def fake_forward(
    of_group: int, input: Tensor, num_groups: int, weight: Any, bias: Any, eps: float,
    activation: Any, residual: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Output, and `of_group` statistics of each group: shapes and strides only."""
    dtype = reference.statistics_dtype(input.dtype)
    statistics = input.new_empty((of_group, input.shape[0], num_groups), dtype=dtype)
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
