"""Kernels as operators of PyTorch: for torch.compile and for tensors without memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op, triton_op

from groupnorm.ops.group_norm.arguments import check_arguments
from groupnorm.ops.group_norm.autograd import (
    double_backward,
    fake_backward,
    fake_forward,
    gradients,
    setup_context,
    setup_double_context,
)


def register(
    name: str,
    launch_forward: Callable[..., tuple[Tensor, Tensor | None]],
    launch_backward: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor | None]],
    *,
    of_group: int,
    device_types: str | None = None,
    launch: Callable[..., None] | None = None,
    always_opaque: bool = False,
) -> Callable[..., Tensor]:
    """Register two operators in `torch.ops.groupnorm`, with all that PyTorch asks of both.

    They are `NAME_K_statistics` and `NAME_backward`, K the statistics of each group. K is in the
    name because torch.compile's caches on disk outlive an upgrade and know an operator by its name
    and arguments alone: a graph cached for another number of statistics would be run, and fail. The
    backward operator has the statistics among its arguments.

    Without `launch` the operators are opaque to torch.compile. With it Inductor sees the launches
    of the kernels where the sizes are numbers. Where they are symbols, because one graph is to
    serve several sizes, the launches cannot be settled in advance: then it sees two operators with
    `_opaque` at the end of their names, which settle them for each call.

    Args:
        launch_forward: as `Kernels.launch_forward`.
        launch_backward: as `Kernels.launch_backward`.
        of_group: how many statistics of each group `launch_forward` gives.
        device_types: the operators' only kind of device; None for any.
        launch: how kernels are launched where torch.compile sees the launches; both functions above
            take it by keyword.
        always_opaque: torch.compile does not see the launches even where the sizes are numbers.

    Returns:
        The forward operator without its statistics.
    """
    forward_name = f"groupnorm::{name}_{of_group}_statistics"
    backward_name = f"groupnorm::{name}_backward"
    suffix = "" if launch is None else "_opaque"
    custom = partial(custom_op, mutates_args=(), device_types=device_types)
    forward: Any = custom(forward_name + suffix, _forward(launch_forward))
    backward: Any = custom(backward_name + suffix, _backward(launch_backward))
    forward.register_fake(partial(fake_forward, of_group))
    backward.register_fake(fake_backward)
    if launch is not None:

        def opaque(input: Tensor, num_groups: int) -> bool:
            sizes = (*input.shape, num_groups)
            return always_opaque or any(isinstance(size, torch.SymInt) for size in sizes)

        seen_forward = _forward(partial(launch_forward, launch=launch), forward, opaque)
        seen_backward = _backward(partial(launch_backward, launch=launch), backward, opaque)
        forward = triton_op(forward_name, seen_forward, mutates_args=())
        backward = triton_op(backward_name, seen_backward, mutates_args=())

    def differentiate(ctx: Any, grad_output: Tensor, unused: Tensor) -> tuple[Any, ...]:
        return gradients(ctx, grad_output, backward)

    forward.register_autograd(differentiate, setup_context=setup_context)
    backward.register_autograd(double_backward, setup_context=setup_double_context)

    def operator(*arguments: Any) -> Tensor:
        y: Tensor = forward(*arguments)[0]
        return y

    return operator


def _never(input: Tensor, num_groups: int) -> bool:
    return False


def _forward(
    launch: Callable[..., Any], other: Any = None, takes_other: Callable[..., bool] = _never
) -> Callable[..., Any]:
    """What a forward operator does; where `takes_other(input, num_groups)`, `other` does it."""

    def forward(
        input: Tensor,
        num_groups: int,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        activation: str | None,
        residual: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        check_arguments(input, num_groups, weight, bias, activation, residual)
        if takes_other(input, num_groups):
            found: tuple[Tensor, Tensor] = other(
                input, num_groups, weight, bias, eps, activation, residual
            )
            return found
        y, statistics = launch(input, num_groups, weight, bias, eps, activation, residual)
        return y, statistics

    return forward


def _backward(
    launch: Callable[..., Any], other: Any = None, takes_other: Callable[..., bool] = _never
) -> Callable[..., Any]:
    """What a backward operator does: dx, dweight, dbias, dresidual, empty unless it is needed."""

    def backward(
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
        if takes_other(input, num_groups):
            found: tuple[Tensor, Tensor, Tensor, Tensor] = other(
                grad_output, input, num_groups, weight, bias, eps, statistics, activation,
                residual, needs_residual,
            )  # fmt: skip
            return found
        dx, dweight, dbias, dresidual = launch(
            grad_output, input, num_groups, weight, bias, statistics, activation, residual,
            needs_residual,
        )  # fmt: skip
        if dweight.storage_offset():  # results may not be views of the same memory
            dweight = dweight.clone()
        return dx, dweight, dbias, input.new_empty(0) if dresidual is None else dresidual

    return backward
