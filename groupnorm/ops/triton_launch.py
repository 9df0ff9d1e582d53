"""Launching the Triton kernels on tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from groupnorm.ops import reference, triton_backward, triton_forward, triton_plan
from groupnorm.ops.activations import ACTIVATIONS
from groupnorm.ops.dense import dense, laid_out_as
from groupnorm.ops.triton_plan import Tiling, multiple_of, power_of_two, split, tiling

_ACTIVATIONS = {name: number for number, name in enumerate((None, *ACTIVATIONS))}
Launcher = Callable[[Any], Any]


def launch_forward(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str | None,
    residual: Tensor | None,
    with_statistics: bool = True,
    launcher: Launcher = lambda kernel: kernel,
) -> tuple[Tensor, Tensor | None]:
    """Output, and mean and rstd as one tensor (2, N, G) unless they are not wanted.

    Args:
        launcher: what is put around each kernel; `torch.library.wrap_triton` in an operator.
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
            launcher(triton_forward.resident_forward)[(n * cut.slabs,)](
                *tensors, *sizes, eps, **flags, **blocks, num_warps=cut.warps
            )
            return y, statistics
        splits, each = split(cut.tiles, n * cut.slabs, _processors(x), limits, cut.block_g)
        partials = x.new_empty((4, n, num_groups, splits), dtype=torch.float32)
        tiles = (cut.channel_blocks, cut.position_blocks, each)
        grid = (n * cut.slabs, splits)
        layout = {key: flags[key] for key in ("CHANNELS_LAST", "MULTIPLE")}
        launcher(triton_forward.partial_statistics)[grid](
            x, partials, *sizes, *tiles, **layout, **blocks, num_warps=cut.warps
        )
        launcher(triton_forward.apply_forward)[grid](
            *tensors, partials, *sizes, *tiles, eps, **flags, **blocks,
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
    launcher: Launcher = lambda kernel: kernel,
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
    with _on(x):
        if cut.resident:
            sums = x.new_empty((2, 1, n, c), dtype=torch.float32)
            launcher(triton_backward.resident_backward)[(n * cut.slabs,)](
                *inputs, dx, _or(dr, x), sums, *sizes, cut.slab_groups, cut.slabs,
                **flags, **blocks, **last,
            )  # fmt: skip
        else:
            sums = _split_backward(
                inputs, dx, _or(dr, x), sizes, cut, flags, blocks, last, launcher
            )
        dbias, dweight = sums.sum((1, 2))
    return dx, dweight, dbias, dr


def _split_backward(
    inputs: tuple[Tensor, ...],
    dx: Tensor,
    dr: Tensor,
    sizes: tuple[int, ...],
    cut: Tiling,
    flags: dict[str, Any],
    blocks: dict[str, int],
    last: dict[str, Any],
    launcher: Launcher,
) -> Tensor:
    """Two launches; the sums per sample and channel, (2, splits, N, C)."""
    x, limits = inputs[0], triton_plan.LIMITS
    n, c = sizes[:2]
    all_blocks = -(-c // cut.block_c)
    splits, each = split(cut.position_blocks, n * all_blocks, _processors(x), limits, cut.block_c)
    sums = x.new_empty((2, splits, n, c), dtype=torch.float32)
    launcher(triton_backward.partial_sums)[(n * all_blocks, splits)](
        *inputs, sums, *sizes, all_blocks, cut.position_blocks, each,
        **flags, **blocks, num_warps=cut.warps,
    )  # fmt: skip
    parts, each = split(cut.tiles, n * cut.slabs, _processors(x), limits, 1)
    launcher(triton_backward.apply_backward)[(n * cut.slabs, parts)](
        *inputs, dx, dr, sums, *sizes, cut.slab_groups, cut.slabs,
        cut.channel_blocks, cut.position_blocks, each, splits,
        **flags, **blocks, **last, BLOCK_P=power_of_two(splits),
    )  # fmt: skip
    return sums


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
