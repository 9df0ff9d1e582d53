"""Launching the Triton kernels on tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from groupnorm.ops.group_norm import reference
from groupnorm.ops.group_norm.activations import NUMBERS as _ACTIVATIONS
from groupnorm.ops.group_norm.arguments import check_backward_arguments
from groupnorm.ops.group_norm.layout import dense, match_strides
from groupnorm.ops.group_norm.memory import check_memory
from groupnorm.ops.group_norm.triton import plan as triton_plan
from groupnorm.ops.group_norm.triton.kernels import backward as triton_backward
from groupnorm.ops.group_norm.triton.kernels import forward as triton_forward
from groupnorm.ops.group_norm.triton.kernels import streamed as triton_streamed
from groupnorm.ops.group_norm.triton.plan import Plan, Tiling, multiple_of, power_of_two

# What `partial_statistics` is compiled for.
_STATISTICAL = ("CHANNELS_LAST", "MULTIPLE", "BLOCK_C", "BLOCK_S", "BLOCK_G", "num_warps")


def directly(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    """Launch a kernel. Products and sums are fused, whatever the default of Triton's version."""
    kernel[grid](*arguments, **options, enable_fp_fusion=True)


Launch = Callable[..., None]


def launch_forward(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str | None,
    residual: Tensor | None,
    with_statistics: bool = True,
    launch: Launch = directly,
) -> tuple[Tensor, Tensor | None]:
    """Output, and mean and rstd as one tensor (2, N, G) unless they are not wanted.

    Args:
        launch: takes a kernel, its grid, its arguments and options.
    """
    if input.numel() == 0:
        y, *statistics_of = reference.forward(
            input, num_groups, weight, bias, eps, activation, residual
        )
        return y, torch.stack(statistics_of)
    if launch is directly:
        check_memory(input, weight, bias, residual)
    x, channels_last = dense(input)
    residual = None if residual is None else match_strides(x, residual)
    weight, bias = _without_gaps(weight), _without_gaps(bias)
    y = torch.empty_like(x)
    n, c, positions = _sizes(x)
    statistics = None
    if with_statistics:
        statistics = x.new_empty((2, n, num_groups), dtype=torch.float32)
    plan = _plan(x, num_groups, channels_last, backward=False, residual=residual is not None)
    cut = plan.cut
    tensors = (x, _or(residual, x), _or(weight, x), _or(bias, x), y, _or(statistics, x))
    sizes = (n, c, positions, num_groups, c // num_groups, cut.slab_groups, cut.slabs)
    tiles = (cut.channel_blocks, cut.position_blocks)
    options = _options(x, cut, channels_last, activation, residual, weight, bias)
    options |= {"HAS_STATISTICS": statistics is not None, "BLOCK_G": cut.block_g}
    slabs = n * cut.slabs
    with _on(x):
        if plan.path == "resident":
            launch(triton_forward.resident_forward, (slabs,), *tensors, *sizes, eps, **options)
            return y, statistics
        if plan.path == "looped":
            kernel = triton_forward.looped_forward
            launch(kernel, (slabs,), *tensors, *sizes, *tiles, eps, **options)
            return y, statistics
        partials = x.new_empty((4, n, num_groups, plan.parts), dtype=torch.float32)
        merging = {**options, "BLOCK_P": power_of_two(plan.parts)}
        if plan.path == "streamed":
            launch(
                triton_streamed.streamed_forward, (2 * slabs * plan.parts,),
                *tensors, partials, _counters(slabs, x), *sizes, *tiles, plan.tiles_per_part,
                plan.parts, eps, **merging,
            )  # fmt: skip
            return y, statistics
        of_parts = (*sizes, *tiles, plan.tiles_per_part)
        statistical = {name: options[name] for name in _STATISTICAL}
        kernel = triton_forward.partial_statistics
        launch(kernel, (slabs, plan.parts), x, partials, *of_parts, **statistical)
        kernel = triton_forward.apply_forward
        launch(kernel, (slabs, plan.parts), *tensors, partials, *of_parts, eps, **merging)
    return y, statistics


def launch_backward(
    grad_output: Tensor,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor,
    activation: str | None,
    residual: Tensor | None,
    needs_residual: bool,
    launch: Launch = directly,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """dx, dweight and dbias (in float32), and dresidual if it is needed.

    Without an activation dresidual is `grad_output`: then the caller may not ask for it.
    """
    check_backward_arguments(grad_output, input, num_groups, weight, bias, statistics, residual)
    if input.numel() == 0:
        mean, rstd = statistics
        dx, dweight, dbias, dz = reference.backward(
            grad_output, input, num_groups, weight, bias, mean, rstd, activation, residual
        )
        return dx, dweight, dbias, dz if needs_residual else None
    if launch is directly:
        check_memory(grad_output, input, weight, bias, statistics, residual)
    x, channels_last = dense(input)
    residual = None if activation is None or residual is None else match_strides(x, residual)
    dy = match_strides(x, grad_output)
    weight, bias = _without_gaps(weight), _without_gaps(bias)
    dx = torch.empty_like(x)
    dr = torch.empty_like(x) if needs_residual else None
    n, c, positions = _sizes(x)
    plan = _plan(x, num_groups, channels_last, backward=True, residual=residual is not None)
    cut, slabs = plan.cut, n * plan.cut.slabs
    statistics = statistics.contiguous()
    inputs = (x, dy, _or(residual, x), _or(weight, x), _or(bias, x), statistics)
    tensors = (*inputs, dx, _or(dr, x))
    sizes = (n, c, positions, num_groups, c // num_groups)
    of_slabs = (*sizes, cut.slab_groups, cut.slabs)
    tiles = (cut.channel_blocks, cut.position_blocks)
    options = _options(x, cut, channels_last, activation, residual, weight, bias)
    writing = {**options, "NEEDS_R": needs_residual, "BLOCK_G": cut.block_g}
    splits = plan.splits
    sums = x.new_empty((2, splits, n, c), dtype=torch.float32)
    with _on(x):
        if plan.path == "resident":
            kernel = triton_backward.resident_backward
            launch(kernel, (slabs,), *tensors, sums, *of_slabs, **writing)
        elif plan.path == "looped":
            kernel = triton_backward.looped_backward
            launch(kernel, (slabs,), *tensors, sums, *of_slabs, *tiles, **writing)
        elif plan.path == "streamed":
            launch(
                triton_streamed.streamed_backward,
                (slabs * (cut.channel_blocks * splits + plan.parts),),
                *tensors, sums, _counters(slabs, x), *of_slabs, *tiles, plan.blocks_per_split,
                splits, plan.tiles_per_part, plan.parts,
                **writing, BLOCK_P=power_of_two(splits),
            )  # fmt: skip
        else:
            blocks = -(-c // cut.block_c)  # of all channels, whatever their groups
            launch(
                triton_backward.partial_sums, (n * blocks, splits),
                *inputs, sums, *sizes, blocks, cut.position_blocks, plan.blocks_per_split,
                **options,
            )  # fmt: skip
            if splits * cut.block_c > triton_plan.LIMITS.partials:
                sums, splits = sums.sum(1, keepdim=True), 1
            launch(
                triton_backward.apply_backward, (slabs, plan.parts),
                *tensors, sums, *of_slabs, *tiles, plan.tiles_per_part, splits,
                **writing, BLOCK_P=power_of_two(splits),
            )  # fmt: skip
        dbias, dweight = sums.sum((1, 2))
    return dx, dweight, dbias, dr


def _plan(
    x: Tensor, num_groups: int, channels_last: bool, *, backward: bool, residual: bool
) -> Plan:
    return triton_plan.plan_of(
        _sizes(x), num_groups, x.element_size(), channels_last, _processors_of(x.device),
        backward=backward, residual=residual,
    )  # fmt: skip


def _counters(slabs: int, x: Tensor) -> Tensor:
    """Of programs, and of the programs that are done with a slab's first walk."""
    return torch.zeros(1 + slabs, dtype=torch.int32, device=x.device)


def _options(
    x: Tensor,
    cut: Tiling,
    channels_last: bool,
    activation: str | None,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
) -> dict[str, Any]:
    """What all kernels are compiled for."""
    _, c, positions = _sizes(x)
    inner = math.gcd(c, cut.slab_groups * cut.group_size) if channels_last else positions
    return {
        "CHANNELS_LAST": channels_last,
        "MULTIPLE": multiple_of(inner, x.element_size()),
        "ACTIVATION": _ACTIVATIONS[activation],
        "HAS_R": residual is not None,
        "HAS_W": weight is not None,
        "HAS_B": bias is not None,
        "BLOCK_C": cut.block_c,
        "BLOCK_S": cut.block_s,
        "num_warps": cut.warps,
    }


def _sizes(x: Tensor) -> tuple[int, int, int]:
    n, c = x.shape[:2]
    return n, c, x.numel() // (n * c)


def _or(tensor: Tensor | None, instead: Tensor) -> Tensor:
    """A pointer has to be there, even one that the kernel does not follow."""
    return instead if tensor is None else tensor


def _without_gaps(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.contiguous()


def _on(x: Tensor) -> Any:
    """Triton launches on the current device."""
    return torch.cuda.device_of(x)  # type: ignore[no-untyped-call]


@cache
def _processors_of(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
