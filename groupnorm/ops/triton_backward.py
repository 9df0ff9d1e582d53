"""The Triton kernels of the backward pass, which computes the activation again.

One set of sums per sample and channel, of dz and dz * xhat, gives the terms of each group and both
gradients of the parameters; nothing is added atomically, so that results repeat bit for bit.
"""

from __future__ import annotations

import triton
import triton.language as tl

from groupnorm.ops.triton_activations import slope
from groupnorm.ops.triton_tiles import (
    SIZES,
    block_of_tile,
    divided,
    fold,
    of_channels,
    places_of,
    spread,
    with_residual,
)


@triton.jit
def _load_gradient(
    x, dy, r, places, mask, mean_c, rstd_c, weight_c, bias_c,
    ACTIVATION: tl.constexpr, HAS_R: tl.constexpr,
):  # fmt: skip
    """xhat and dz = dy * activation'(z) of a tile; both 0 outside the mask."""
    values = tl.load(x + places, mask=mask, other=0.0).to(tl.float32)
    xhat = tl.where(mask, (values - mean_c[:, None]) * rstd_c[:, None], 0.0)
    dz = tl.load(dy + places, mask=mask, other=0.0).to(tl.float32)
    if ACTIVATION != 0:
        z = xhat * weight_c[:, None] + bias_c[:, None]
        z = with_residual(z, r, places, mask, HAS_R)
        dz = tl.where(mask, dz * slope(z, ACTIVATION), 0.0)
    return xhat, dz


@triton.jit(do_not_specialize=SIZES)
def resident_backward(
    x, dy, r, weight, bias, statistics, dx, dr, sums,
    num_samples, num_channels, num_positions, num_groups, group_size, slab_groups, slabs,
    CHANNELS_LAST: tl.constexpr, MULTIPLE: tl.constexpr, ACTIVATION: tl.constexpr,
    HAS_R: tl.constexpr, HAS_W: tl.constexpr, HAS_B: tl.constexpr, NEEDS_R: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """A slab in one tile: dx, dr, and the sums of dz and dz * xhat per sample and channel."""
    program = tl.program_id(0)
    sample, slab = program // slabs, program % slabs
    slab_channels = slab_groups * group_size
    if CHANNELS_LAST:
        num_channels = divided(num_channels, MULTIPLE)
        slab_channels = divided(slab_channels, MULTIPLE)
    else:
        num_positions = divided(num_positions, MULTIPLE)
    local = tl.arange(0, BLOCK_C)
    channels = slab * slab_channels + local
    ok = (local < slab_channels) & (channels < num_channels)
    group_c = tl.where(ok, local // group_size, -1)
    positions = tl.arange(0, BLOCK_S)
    mask = ok[:, None] & (positions < num_positions)[None, :]
    places = places_of(sample, channels, positions, num_channels, num_positions, CHANNELS_LAST)
    weight_c = of_channels(weight, channels, ok, HAS_W, 1.0)
    bias_c = of_channels(bias, channels, ok, HAS_B, 0.0)
    at = statistics + sample.to(tl.int64) * num_groups + channels // group_size
    mean_c = tl.load(at, mask=ok, other=0.0)
    rstd_c = tl.load(at + num_samples.to(tl.int64) * num_groups, mask=ok, other=0.0)

    xhat, dz = _load_gradient(
        x, dy, r, places, mask, mean_c, rstd_c, weight_c, bias_c, ACTIVATION, HAS_R
    )
    if NEEDS_R:
        tl.store(dr + places, dz.to(dr.dtype.element_ty), mask=mask)
    dbias = tl.sum(dz, 1)
    dweight = tl.sum(dz * xhat, 1)
    row = sample.to(tl.int64) * num_channels + channels
    tl.store(sums + row, dbias, mask=ok)
    tl.store(sums + row + num_samples.to(tl.int64) * num_channels, dweight, mask=ok)

    count = 1.0 * group_size * num_positions
    of_a = fold(dbias * weight_c, group_c, BLOCK_G) / count
    of_ax = fold(dweight * weight_c, group_c, BLOCK_G) / count
    inner = dz * weight_c[:, None] - spread(of_a, group_c, BLOCK_G)[:, None]
    inner -= xhat * spread(of_ax, group_c, BLOCK_G)[:, None]
    tl.store(dx + places, (rstd_c[:, None] * inner).to(dx.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=SIZES)
def partial_sums(
    x, dy, r, weight, bias, statistics, sums,
    num_samples, num_channels, num_positions, num_groups, group_size, channel_blocks,
    position_blocks, tiles_per_split,
    CHANNELS_LAST: tl.constexpr, MULTIPLE: tl.constexpr, ACTIVATION: tl.constexpr,
    HAS_R: tl.constexpr, HAS_W: tl.constexpr, HAS_B: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Sums of dz and dz * xhat over a split's positions: (2, splits, N, C).

    A program has a block of neighbouring channels, whatever their groups.
    """
    program, split = tl.program_id(0), tl.program_id(1)
    sample, block = program // channel_blocks, program % channel_blocks
    if CHANNELS_LAST:
        num_channels = divided(num_channels, MULTIPLE)
    else:
        num_positions = divided(num_positions, MULTIPLE)
    channels = block * BLOCK_C + tl.arange(0, BLOCK_C)
    ok = channels < num_channels
    weight_c = of_channels(weight, channels, ok, HAS_W, 1.0)
    bias_c = of_channels(bias, channels, ok, HAS_B, 0.0)
    at = statistics + sample.to(tl.int64) * num_groups + channels // group_size
    mean_c = tl.load(at, mask=ok, other=0.0)
    rstd_c = tl.load(at + num_samples.to(tl.int64) * num_groups, mask=ok, other=0.0)

    of_dz = tl.zeros([BLOCK_C, BLOCK_S], tl.float32)
    of_dzx = tl.zeros([BLOCK_C, BLOCK_S], tl.float32)
    first = split * tiles_per_split
    for tile in range(first, tl.minimum(first + tiles_per_split, position_blocks)):
        positions = tile * BLOCK_S + tl.arange(0, BLOCK_S)
        mask = ok[:, None] & (positions < num_positions)[None, :]
        places = places_of(sample, channels, positions, num_channels, num_positions, CHANNELS_LAST)
        xhat, dz = _load_gradient(
            x, dy, r, places, mask, mean_c, rstd_c, weight_c, bias_c, ACTIVATION, HAS_R
        )
        of_dz += dz
        of_dzx += dz * xhat
    row = (split.to(tl.int64) * num_samples + sample) * num_channels + channels
    size = tl.num_programs(1).to(tl.int64) * num_samples * num_channels
    tl.store(sums + row, tl.sum(of_dz, 1), mask=ok)
    tl.store(sums + row + size, tl.sum(of_dzx, 1), mask=ok)


@triton.jit(do_not_specialize=SIZES)
def apply_backward(
    x, dy, r, weight, bias, statistics, dx, dr, sums,
    num_samples, num_channels, num_positions, num_groups, group_size, slab_groups, slabs,
    channel_blocks, position_blocks, tiles_per_split, splits,
    CHANNELS_LAST: tl.constexpr, MULTIPLE: tl.constexpr, ACTIVATION: tl.constexpr,
    HAS_R: tl.constexpr, HAS_W: tl.constexpr, HAS_B: tl.constexpr, NEEDS_R: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Merge the sums of a slab's channels, and write dx and dr of some of its tiles.

    From the end to the beginning, as `apply_forward`; `splits` are those of `partial_sums`.
    """
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    part = tl.num_programs(1) - 1 - tl.program_id(1)
    sample, slab = program // slabs, program % slabs
    slab_channels = slab_groups * group_size
    if CHANNELS_LAST:
        num_channels = divided(num_channels, MULTIPLE)
        slab_channels = divided(slab_channels, MULTIPLE)
    else:
        num_positions = divided(num_positions, MULTIPLE)
    size = num_samples.to(tl.int64) * num_channels

    of_a = tl.zeros([BLOCK_G], tl.float32)
    of_ax = tl.zeros([BLOCK_G], tl.float32)
    each = tl.arange(0, BLOCK_P)
    for block in range(channel_blocks):
        local = block * BLOCK_C + tl.arange(0, BLOCK_C)
        channels = slab * slab_channels + local
        ok = (local < slab_channels) & (channels < num_channels)
        group_c = tl.where(ok, local // group_size, -1)
        weight_c = of_channels(weight, channels, ok, HAS_W, 1.0)
        row = sample.to(tl.int64) * num_channels + channels
        at = row[None, :] + each.to(tl.int64)[:, None] * size
        there = ok[None, :] & (each < splits)[:, None]
        dbias = tl.sum(tl.load(sums + at, mask=there, other=0.0), 0)
        dweight = tl.sum(tl.load(sums + at + size * splits, mask=there, other=0.0), 0)
        of_a += fold(dbias * weight_c, group_c, BLOCK_G)
        of_ax += fold(dweight * weight_c, group_c, BLOCK_G)
    count = 1.0 * group_size * num_positions
    of_a /= count
    of_ax /= count

    first = part * tiles_per_split
    last = tl.minimum(first + tiles_per_split, channel_blocks * position_blocks)
    for number in range(first, last):
        tile = first + last - 1 - number
        block, position_block = block_of_tile(tile, channel_blocks, position_blocks, CHANNELS_LAST)
        local = block * BLOCK_C + tl.arange(0, BLOCK_C)
        channels = slab * slab_channels + local
        ok = (local < slab_channels) & (channels < num_channels)
        group_c = tl.where(ok, local // group_size, -1)
        positions = position_block * BLOCK_S + tl.arange(0, BLOCK_S)
        mask = ok[:, None] & (positions < num_positions)[None, :]
        places = places_of(sample, channels, positions, num_channels, num_positions, CHANNELS_LAST)
        weight_c = of_channels(weight, channels, ok, HAS_W, 1.0)
        bias_c = of_channels(bias, channels, ok, HAS_B, 0.0)
        at = statistics + sample.to(tl.int64) * num_groups + channels // group_size
        mean_c = tl.load(at, mask=ok, other=0.0)
        rstd_c = tl.load(at + num_samples.to(tl.int64) * num_groups, mask=ok, other=0.0)
        xhat, dz = _load_gradient(
            x, dy, r, places, mask, mean_c, rstd_c, weight_c, bias_c, ACTIVATION, HAS_R
        )
        if NEEDS_R:
            tl.store(dr + places, dz.to(dr.dtype.element_ty), mask=mask)
        inner = dz * weight_c[:, None] - spread(of_a, group_c, BLOCK_G)[:, None]
        inner -= xhat * spread(of_ax, group_c, BLOCK_G)[:, None]
        tl.store(dx + places, (rstd_c[:, None] * inner).to(dx.dtype.element_ty), mask=mask)
