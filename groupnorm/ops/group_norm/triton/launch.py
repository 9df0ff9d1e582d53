"""Launching the Triton kernels on tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.library import wrap_triton

from groupnorm.ops.group_norm import reference
from groupnorm.ops.group_norm.activations import NUMBERS
from groupnorm.ops.group_norm.arguments import check_backward_arguments
from groupnorm.ops.group_norm.layout import dense, match_strides
from groupnorm.ops.group_norm.memory import check_memory
from groupnorm.ops.group_norm.triton import plan
from groupnorm.ops.group_norm.triton.kernels import backward as backward_kernels
from groupnorm.ops.group_norm.triton.kernels import forward as forward_kernels
from groupnorm.ops.group_norm.triton.plan import Plan, Tiling, multiple_of, power_of_two

STATISTICS = 2  # of a group, kept for the backward pass: mean and rstd
# What `partial_statistics` is compiled for.
_STATISTICAL = ("CHANNELS_LAST", "MULTIPLE", "BLOCK_C", "BLOCK_S", "BLOCK_G", "num_warps")


def directly(kernel: Any, grid: tuple[int, ...], *tensors: Tensor, **arguments: Any) -> None:
    """Launch a kernel. Products and sums are fused, whatever the default of Triton's version."""
    kernel[grid](*tensors, **arguments, enable_fp_fusion=True)


def traced(kernel: Any, grid: tuple[int, ...], *tensors: Tensor, **arguments: Any) -> None:
    """Launch a kernel where torch.compile sees the launch."""
    wrap_triton(kernel)[grid](*tensors, **arguments)


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
        launch: takes a kernel, its grid, its tensors, and everything else by keyword.
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
    weight, bias = _contiguous(weight), _contiguous(bias)
    y = torch.empty_like(x)
    n, c, positions = _sizes(x)
    statistics = None
    if with_statistics:
        statistics = x.new_empty((STATISTICS, n, num_groups), dtype=torch.float32)
    schedule = _plan(x, num_groups, channels_last, backward=False)
    cut = schedule.cut
    tensors = (x, _or(residual, x), _or(weight, x), _or(bias, x), y, _or(statistics, x))
    sizes = {
        "num_samples": n, "num_channels": c, "num_positions": positions, "num_groups": num_groups,
        "group_size": c // num_groups, "tile_groups": cut.tile_groups, "tiles": cut.tiles,
    }  # fmt: skip
    blocks = {"channel_blocks": cut.channel_blocks, "position_blocks": cut.position_blocks}
    options = _options(x, cut, channels_last, activation, residual, weight, bias)
    options |= {"HAS_STATISTICS": statistics is not None, "BLOCK_G": cut.block_g}
    tiles = n * cut.tiles
    with _on(x):
        if schedule.path == "resident":
            kernel = forward_kernels.resident_forward
            launch(kernel, (tiles,), *tensors, **sizes, eps=eps, **options)
        elif schedule.path == "looped":
            kernel = forward_kernels.looped_forward
            launch(kernel, (tiles,), *tensors, **sizes, **blocks, eps=eps, **options)
        else:
            partials = x.new_empty((4, n, num_groups, schedule.parts), dtype=torch.float32)
            parts = {**sizes, **blocks, "blocks_per_part": schedule.blocks_per_part}
            launch(
                forward_kernels.partial_statistics, (tiles, schedule.parts), x, partials,
                **parts, **{name: options[name] for name in _STATISTICAL},
            )  # fmt: skip
            launch(
                forward_kernels.apply_forward, (tiles, schedule.parts), *tensors, partials,
                **parts, eps=eps, **options, BLOCK_P=power_of_two(schedule.parts),
            )  # fmt: skip
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
    check_backward_arguments(
        grad_output, input, num_groups, weight, bias, statistics, residual, STATISTICS
    )
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
    weight, bias = _contiguous(weight), _contiguous(bias)
    dx = torch.empty_like(x)
    dr = torch.empty_like(x) if needs_residual else None
    n, c, positions = _sizes(x)
    schedule = _plan(x, num_groups, channels_last, backward=True)
    cut, tiles = schedule.cut, n * schedule.cut.tiles
    statistics = statistics.contiguous()
    inputs = (x, dy, _or(residual, x), _or(weight, x), _or(bias, x), statistics)
    tensors = (*inputs, dx, _or(dr, x))
    sizes = {
        "num_samples": n, "num_channels": c, "num_positions": positions, "num_groups": num_groups,
        "group_size": c // num_groups,
    }  # fmt: skip
    of_tiles = {**sizes, "tile_groups": cut.tile_groups, "tiles": cut.tiles}
    blocks = {"channel_blocks": cut.channel_blocks, "position_blocks": cut.position_blocks}
    options = _options(x, cut, channels_last, activation, residual, weight, bias)
    writing = {**options, "NEEDS_R": needs_residual, "BLOCK_G": cut.block_g}
    splits = schedule.splits
    sums = x.new_empty((2, splits, n, c), dtype=torch.float32)
    with _on(x):
        if schedule.path == "resident":
            kernel = backward_kernels.resident_backward
            launch(kernel, (tiles,), *tensors, sums, **of_tiles, **writing)
        elif schedule.path == "looped":
            kernel = backward_kernels.looped_backward
            launch(kernel, (tiles,), *tensors, sums, **of_tiles, **blocks, **writing)
        else:
            channel_blocks = -(-c // cut.block_c)  # of all channels, whatever their groups
            launch(
                backward_kernels.partial_sums, (n * channel_blocks, splits), *inputs, sums,
                **sizes, channel_blocks=channel_blocks, position_blocks=cut.position_blocks,
                position_blocks_per_split=schedule.position_blocks_per_split, **options,
            )  # fmt: skip
            if splits * cut.block_c > plan.LIMITS.partials:
                sums, splits = sums.sum(1, keepdim=True), 1
            launch(
                backward_kernels.apply_backward, (tiles, schedule.parts), *tensors, sums,
                **of_tiles, **blocks, blocks_per_part=schedule.blocks_per_part, splits=splits,
                **writing, BLOCK_P=power_of_two(splits),
            )  # fmt: skip
        dbias, dweight = sums.sum((1, 2))
    return dx, dweight, dbias, dr


def _plan(x: Tensor, num_groups: int, channels_last: bool, *, backward: bool) -> Plan:
    return plan.plan_of(
        _sizes(x), num_groups, x.element_size(), channels_last, processors_of(x.device),
        backward=backward,
    )  # fmt: skip


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
    inner = math.gcd(c, cut.tile_groups * cut.group_size) if channels_last else positions
    return {
        "CHANNELS_LAST": channels_last,
        "MULTIPLE": multiple_of(inner, x.element_size()),
        "ACTIVATION": NUMBERS[activation],
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


def _contiguous(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.contiguous()


def _on(x: Tensor) -> Any:
    """Triton launches on the current device."""
    return torch.cuda.device_of(x)  # type: ignore[no-untyped-call]


@cache
def processors_of(device: torch.device) -> int:
    """Multiprocessors of a CUDA device; 1 where the kernels are interpreted."""
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
