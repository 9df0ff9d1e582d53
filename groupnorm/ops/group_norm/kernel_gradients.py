"""Gradients by kernels, for eager autograd and operators: what is saved, what comes back.

Also what the operators give for tensors without memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from groupnorm.ops.group_norm import reference
from groupnorm.ops.group_norm.layout import dense


def keep(ctx: Any, inputs: tuple[Any, ...], statistics: Tensor | None) -> None:
    """Save for the backward pass: the input, mean and rstd of each group, and what is there."""
    input, num_groups, weight, bias, eps, activation, residual = inputs
    ctx.bias_dtype = None if bias is None else bias.dtype
    if activation is None:  # else its slope depends on both
        bias = residual = None
    ctx.save_for_backward(input, weight, bias, residual, statistics)
    ctx.num_groups, ctx.eps, ctx.activation = num_groups, eps, activation


def gradients(ctx: Any, grad_output: Tensor, backward: Callable[..., Any]) -> tuple[Any, ...]:
    """The gradients of the seven inputs, from what `keep` saved.

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


def keep_of_operator(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """`keep`, for an operator that gives output and statistics."""
    ctx.mark_non_differentiable(output[1])
    keep(ctx, inputs, output[1])


def keep_of_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """Save for the gradients of the gradients, for an operator that gives gradients."""
    grad_output, input, num_groups, weight, bias, eps, _, activation, residual, _ = inputs
    ctx.save_for_backward(grad_output, input, weight, bias, residual)
    ctx.num_groups, ctx.eps, ctx.activation = num_groups, eps, activation


def differentiate_again(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
    """Gradients of the gradients, through the differentiable reference."""
    kept = ctx.saved_tensors
    with torch.enable_grad():
        tensors = [None if t is None else t.detach().requires_grad_() for t in kept]
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
    each = iter(found)
    d_grad, d_input, d_weight, d_bias, d_residual = (
        None if t is None else next(each) for t in tensors
    )
    return d_grad, d_input, None, d_weight, d_bias, None, None, None, d_residual, None
