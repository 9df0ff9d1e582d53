"""Launching the Triton kernels on tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from groupnorm.ops import reference, triton_backward, triton_forward, triton_plan, triton_streamed
from groupnorm.ops.activations import ACTIVATIONS
from groupnorm.ops.dense import dense, laid_out_as
from groupnorm.ops.triton_plan import Tiling, equal_parts, multiple_of, power_of_two, split, tiling

_ACTIVATIONS = {name: number for number, name in enumerate((None, *ACTIVATIONS))}


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
    x, channels_last = dense(input)
    residual = laid_out_as(x, residual)
    weight, bias = _without_gaps(weight), _without_gaps(bias)
    y = torch.empty_like(x)
    n, c, positions = _sizes(x)
    statistics = None
    if with_statistics:
        statistics = x.new_empty((2, n, num_groups), dtype=torch.float32)
    limits = triton_plan.LIMITS
    cut = tiling(
        c, num_groups, positions, x.element_size(), channels_last, limits.resident_forward, limits
    )
    tensors = (x, _or(residual, x), _or(weight, x), _or(bias, x), y, _or(statistics, x))
    sizes = (n, c, positions, num_groups, c // num_groups, cut.slab_groups, cut.slabs)
    flags = _flags(x, cut, channels_last, activation, residual, weight, bias)
    flags["HAS_STATISTICS"] = statistics is not None
    blocks = {"BLOCK_C": cut.block_c, "BLOCK_S": cut.block_s, "BLOCK_G": cut.block_g}
    with _on(x):
        if cut.resident:
            launch(
                triton_forward.resident_forward, (n * cut.slabs,),
                *tensors, *sizes, eps, **flags, **blocks, num_warps=cut.warps,
            )  # fmt: skip
            return y, statistics
        tiles = (cut.channel_blocks, cut.position_blocks)
        most = limits.partials // cut.block_g
        splits, each = split(cut.tiles, n * cut.slabs, _processors(x), limits, most)
        if splits == 1:
            launch(
                triton_forward.looped_forward, (n * cut.slabs,),
                *tensors, *sizes, *tiles, eps, **flags, **blocks, num_warps=cut.warps,
            )  # fmt: skip
            return y, statistics
        if _streams(cut, x, 1 + (residual is not None)):
            splits, each = equal_parts(cut.tiles, min(-(-cut.tiles // limits.streamed_tiles), most))
            partials = x.new_empty((4, n, num_groups, splits), dtype=torch.float32)
            launch(
                triton_streamed.streamed_forward, (2 * n * cut.slabs * splits,),
                *tensors, partials, _counters(cut, x), *sizes, *tiles, each, splits, eps,
                **flags, **blocks, BLOCK_P=power_of_two(splits), num_warps=cut.warps,
            )  # fmt: skip
            return y, statistics
        partials = x.new_empty((4, n, num_groups, splits), dtype=torch.float32)
        grid = (n * cut.slabs, splits)
        layout = {key: flags[key] for key in ("CHANNELS_LAST", "MULTIPLE")}
        launch(
            triton_forward.partial_statistics, grid,
            x, partials, *sizes, *tiles, each, **layout, **blocks, num_warps=cut.warps,
        )  # fmt: skip
        launch(
            triton_forward.apply_forward, grid,
            *tensors, partials, *sizes, *tiles, each, eps, **flags, **blocks,
            BLOCK_P=power_of_two(splits), num_warps=cut.warps,
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
    if input.numel() == 0:
        mean, rstd = statistics
        dx, dweight, dbias, dz = reference.backward(
            grad_output, input, num_groups, weight, bias, mean, rstd, activation, residual
        )
        return dx, dweight, dbias, dz if needs_residual else None
    x, channels_last = dense(input)
    residual = None if activation is None else laid_out_as(x, residual)
    dy = laid_out_as(x, grad_output)
    assert dy is not None
    weight, bias = _without_gaps(weight), _without_gaps(bias)
    dx = torch.empty_like(x)
    dr = torch.empty_like(x) if needs_residual else None
    n, c, positions = _sizes(x)
    limits = triton_plan.LIMITS
    cut = tiling(
        c, num_groups, positions, x.element_size(), channels_last, limits.resident_backward, limits
    )
    inputs = (x, dy, _or(residual, x), _or(weight, x), _or(bias, x), statistics)
    sizes = (n, c, positions, num_groups, c // num_groups)
    flags = _flags(x, cut, channels_last, activation, residual, weight, bias)
    blocks = {"BLOCK_C": cut.block_c, "BLOCK_S": cut.block_s}
    last = {"NEEDS_R": needs_residual, "BLOCK_G": cut.block_g, "num_warps": cut.warps}
    parts, each = split(cut.tiles, n * cut.slabs, _processors(x), limits)
    with _on(x):
        if cut.resident or parts == 1:
            sums = x.new_empty((2, 1, n, c), dtype=torch.float32)
            kernel = triton_backward.resident_backward
            tiles: tuple[int, ...] = ()
            if not cut.resident:
                kernel = triton_backward.looped_backward
                tiles = (cut.channel_blocks, cut.position_blocks)
            launch(
                kernel, (n * cut.slabs,),
                *inputs, dx, _or(dr, x), sums, *sizes, cut.slab_groups, cut.slabs, *tiles,
                **flags, **blocks, **last,
            )  # fmt: skip
        else:
            streams = _streams(cut, x, 2 + (residual is not None))
            several = _streamed_backward if streams else _split_backward
            sums = several(
                inputs, dx, _or(dr, x), sizes, cut, parts, each, flags, blocks, last, launch
            )
        dbias, dweight = sums.sum((1, 2))
    return dx, dweight, dbias, dr


def _split_backward(
    inputs: tuple[Tensor, ...],
    dx: Tensor,
    dr: Tensor,
    sizes: tuple[int, ...],
    cut: Tiling,
    parts: int,
    tiles_per_part: int,
    flags: dict[str, Any],
    blocks: dict[str, int],
    last: dict[str, Any],
    launch: Launch,
) -> Tensor:
    """Two launches; the sums per sample and channel, (2, splits or 1, N, C)."""
    x, limits = inputs[0], triton_plan.LIMITS
    n, c = sizes[:2]
    all_blocks = -(-c // cut.block_c)
    splits, each = split(cut.position_blocks, n * all_blocks, _processors(x), limits)
    sums = x.new_empty((2, splits, n, c), dtype=torch.float32)
    launch(
        triton_backward.partial_sums, (n * all_blocks, splits),
        *inputs, sums, *sizes, all_blocks, cut.position_blocks, each,
        **flags, **blocks, num_warps=cut.warps,
    )  # fmt: skip
    if splits * cut.block_c > limits.partials:
        sums, splits = sums.sum(1, keepdim=True), 1
    launch(
        triton_backward.apply_backward, (n * cut.slabs, parts),
        *inputs, dx, dr, sums, *sizes, cut.slab_groups, cut.slabs,
        cut.channel_blocks, cut.position_blocks, tiles_per_part, splits,
        **flags, **blocks, **last, BLOCK_P=power_of_two(splits),
    )  # fmt: skip
    return sums


def _streamed_backward(
    inputs: tuple[Tensor, ...],
    dx: Tensor,
    dr: Tensor,
    sizes: tuple[int, ...],
    cut: Tiling,
    parts: int,
    tiles_per_part: int,
    flags: dict[str, Any],
    blocks: dict[str, int],
    last: dict[str, Any],
    launch: Launch,
) -> Tensor:
    """One launch; the sums per sample and channel, (2, splits, N, C)."""
    x, limits = inputs[0], triton_plan.LIMITS
    n, c = sizes[:2]
    few = limits.streamed_tiles
    wanted = min(-(-cut.position_blocks // few), limits.partials // cut.block_c)
    splits, each = equal_parts(cut.position_blocks, wanted)
    parts, tiles_per_part = equal_parts(cut.tiles, -(-cut.tiles // few))
    sums = x.new_empty((2, splits, n, c), dtype=torch.float32)
    launch(
        triton_streamed.streamed_backward, (n * cut.slabs * (cut.channel_blocks * splits + parts),),
        *inputs, dx, dr, sums, _counters(cut, x), *sizes, cut.slab_groups, cut.slabs,
        cut.channel_blocks, cut.position_blocks, each, splits, tiles_per_part, parts,
        **flags, **blocks, **last, BLOCK_P=power_of_two(splits),
    )  # fmt: skip
    return sums


def _streams(cut: Tiling, x: Tensor, walked_twice: int) -> bool:
    """Whether the walks over a slab follow each other in one launch."""
    elements = cut.slab_groups * cut.group_size * _sizes(x)[2]
    return elements * x.element_size() * walked_twice <= triton_plan.LIMITS.streamed


def _counters(cut: Tiling, x: Tensor) -> Tensor:
    return torch.zeros(1 + len(x) * cut.slabs, dtype=torch.int32, device=x.device)


def _flags(
    x: Tensor,
    cut: Tiling,
    channels_last: bool,
    activation: str | None,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
) -> dict[str, Any]:
    """What the kernels are compiled for."""
    _, c, positions = _sizes(x)
    inner = math.gcd(c, cut.slab_groups * cut.group_size) if channels_last else positions
    return {
        "CHANNELS_LAST": channels_last,
        "MULTIPLE": multiple_of(inner, x.element_size()),
        "ACTIVATION": _ACTIVATIONS[activation],
        "HAS_R": residual is not None,
        "HAS_W": weight is not None,
        "HAS_B": bias is not None,
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


def _processors(x: Tensor) -> int:
    return _processors_of(x.device)
