"""The Triton kernels of the backward pass, which computes the activation again.

One set of sums per sample and channel, of dz and dz * xhat, gives the terms of each group and both
gradients of the parameters; nothing is added atomically, so that results repeat bit for bit. The
three ways through memory are those of the forward pass.
"""

from __future__ import annotations

import triton
import triton.language as tl

from groupnorm.ops.group_norm.triton.kernels.activations import slope
from groupnorm.ops.group_norm.triton.kernels.tiles import (
    SIZES,
    beta_of,
    block_at,
    divided,
    fold,
    gamma_of,
    groups_of_lanes,
    load_written,
    slab_of,
    spread,
    tile_at,
    wide,
    with_residual,
)


@triton.jit
def known_of_channels(
    weight, bias, statistics, sample, channels, ok, num_samples, num_groups, group_size,
    HAS_W: tl.constexpr, HAS_B: tl.constexpr,
):  # fmt: skip
    """gamma, beta, mean and rstd of channels."""
    at = statistics + wide(sample) * num_groups + channels // group_size
    mean_c = tl.load(at, mask=ok, other=0.0)
    rstd_c = tl.load(at + wide(num_samples) * num_groups, mask=ok, other=0.0)
    weight_c = gamma_of(weight, channels, ok, HAS_W)
    return weight_c, beta_of(bias, channels, ok, HAS_B), mean_c, rstd_c


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


@triton.jit
def write_tile(
    dx, dr, places, mask, xhat, dz, weight_c, rstd_c, a_c, ax_c, NEEDS_R: tl.constexpr
):  # fmt: skip
    """dx and dr of a tile, from the means of dz * gamma and dz * gamma * xhat of its groups."""
    if NEEDS_R:
        tl.store(dr + places, dz.to(dr.dtype.element_ty), mask=mask)
    inner = dz * weight_c[:, None] - a_c[:, None] - xhat * ax_c[:, None]
    tl.store(dx + places, (rstd_c[:, None] * inner).to(dx.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=SIZES)
def resident_backward(
    x, dy, r, weight, bias, statistics, dx, dr, sums,
    num_samples, num_channels, num_positions, num_groups, group_size, slab_groups, slabs,
    CHANNELS_LAST: tl.constexpr, MULTIPLE: tl.constexpr, ACTIVATION: tl.constexpr,
    HAS_R: tl.constexpr, HAS_W: tl.constexpr, HAS_B: tl.constexpr, NEEDS_R: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """A slab in one tile: dx, dr, and the sums of dz and dz * xhat per sample and channel."""
    sample, slab, slab_channels, num_channels, num_positions = slab_of(
        tl.program_id(0), slabs, slab_groups, group_size, num_channels, num_positions,
        CHANNELS_LAST, MULTIPLE,
    )  # fmt: skip
    group_c = groups_of_lanes(slab_channels, group_size, BLOCK_C)
    channels, ok, mask, places, _ = tile_at(
        tl.full([], 0, tl.int32), sample, slab, slab_channels, group_size, num_channels,
        num_positions, 1, 1, CHANNELS_LAST, BLOCK_C, BLOCK_S,
    )  # fmt: skip
    weight_c, bias_c, mean_c, rstd_c = known_of_channels(
        weight, bias, statistics, sample, channels, ok, num_samples, num_groups, group_size,
        HAS_W, HAS_B,
    )  # fmt: skip
    xhat, dz = _load_gradient(
        x, dy, r, places, mask, mean_c, rstd_c, weight_c, bias_c, ACTIVATION, HAS_R
    )
    dbias = tl.sum(dz, 1)
    dweight = tl.sum(dz * xhat, 1)
    keep_sums(sums, sample, channels, ok, dbias, dweight, num_samples, num_channels)
    count = 1.0 * group_size * num_positions
    of_a = fold(dbias * weight_c, group_c, BLOCK_G) / count
    of_ax = fold(dweight * weight_c, group_c, BLOCK_G) / count
    a_c = spread(of_a, group_c, BLOCK_G)
    ax_c = spread(of_ax, group_c, BLOCK_G)
    write_tile(dx, dr, places, mask, xhat, dz, weight_c, rstd_c, a_c, ax_c, NEEDS_R)


@triton.jit
def sums_of(
    x, dy, r, weight_c, bias_c, mean_c, rstd_c, sample, slab, block, first, last,
    slab_channels, num_channels, num_positions, group_size,
    CHANNELS_LAST: tl.constexpr, ACTIVATION: tl.constexpr, HAS_R: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Sums of dz and dz * xhat of a block of channels, over some blocks of positions."""
    of_dz = tl.zeros([BLOCK_C, BLOCK_S], tl.float32)
    of_dzx = tl.zeros([BLOCK_C, BLOCK_S], tl.float32)
    for position_block in range(first, last):
        _, _, mask, places, _ = block_at(
            block, position_block, sample, slab, slab_channels, group_size, num_channels,
            num_positions, CHANNELS_LAST, BLOCK_C, BLOCK_S,
        )  # fmt: skip
        xhat, dz = _load_gradient(
            x, dy, r, places, mask, mean_c, rstd_c, weight_c, bias_c, ACTIVATION, HAS_R
        )
        of_dz += dz
        of_dzx += dz * xhat
    return tl.sum(of_dz, 1), tl.sum(of_dzx, 1)


@triton.jit
def keep_sums(sums, row, channels, ok, dbias, dweight, num_rows, num_channels):
    """Write row `row` of both sums, (2, rows, C)."""
    at = wide(row) * num_channels + channels
    tl.store(sums + at, dbias, mask=ok)
    tl.store(sums + at + wide(num_rows) * num_channels, dweight, mask=ok)


@triton.jit
def write_tiles(
    x, dy, r, weight, bias, statistics, dx, dr, of_a, of_ax, sample, slab, first, last,
    slab_channels, num_samples, num_channels, num_positions, num_groups, group_size,
    channel_blocks, position_blocks,
    CHANNELS_LAST: tl.constexpr, ACTIVATION: tl.constexpr,
    HAS_R: tl.constexpr, HAS_W: tl.constexpr, HAS_B: tl.constexpr, NEEDS_R: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """Write dx and dr of some tiles of a slab, the last one first, as in the forward pass."""
    group_c = groups_of_lanes(slab_channels, group_size, BLOCK_C)
    a_c = spread(of_a, group_c, BLOCK_G)
    ax_c = spread(of_ax, group_c, BLOCK_G)
    for number in range(first, last):
        channels, ok, mask, places, _ = tile_at(
            first + last - 1 - number, sample, slab, slab_channels, group_size, num_channels,
            num_positions, channel_blocks, position_blocks, CHANNELS_LAST, BLOCK_C, BLOCK_S,
        )  # fmt: skip
        weight_c, bias_c, mean_c, rstd_c = known_of_channels(
            weight, bias, statistics, sample, channels, ok, num_samples, num_groups, group_size,
            HAS_W, HAS_B,
        )  # fmt: skip
        xhat, dz = _load_gradient(
            x, dy, r, places, mask, mean_c, rstd_c, weight_c, bias_c, ACTIVATION, HAS_R
        )
        write_tile(dx, dr, places, mask, xhat, dz, weight_c, rstd_c, a_c, ax_c, NEEDS_R)


@triton.jit(do_not_specialize=SIZES)
def looped_backward(
    x, dy, r, weight, bias, statistics, dx, dr, sums,
    num_samples, num_channels, num_positions, num_groups, group_size, slab_groups, slabs,
    channel_blocks, position_blocks,
    CHANNELS_LAST: tl.constexpr, MULTIPLE: tl.constexpr, ACTIVATION: tl.constexpr,
    HAS_R: tl.constexpr, HAS_W: tl.constexpr, HAS_B: tl.constexpr, NEEDS_R: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """A slab in many tiles, by one program; the same results as `resident_backward`."""
    sample, slab, slab_channels, num_channels, num_positions = slab_of(
        tl.program_id(0), slabs, slab_groups, group_size, num_channels, num_positions,
        CHANNELS_LAST, MULTIPLE,
    )  # fmt: skip
    of_a = tl.zeros([BLOCK_G], tl.float32)
    of_ax = tl.zeros([BLOCK_G], tl.float32)
    group_c = groups_of_lanes(slab_channels, group_size, BLOCK_C)
    for block in range(channel_blocks):
        local = tl.full([], BLOCK_C, tl.int32) * block + tl.arange(0, BLOCK_C)
        channels = slab * slab_channels + local
        ok = (local < slab_channels) & (channels < num_channels)
        weight_c, bias_c, mean_c, rstd_c = known_of_channels(
            weight, bias, statistics, sample, channels, ok, num_samples, num_groups, group_size,
            HAS_W, HAS_B,
        )  # fmt: skip
        dbias, dweight = sums_of(
            x, dy, r, weight_c, bias_c, mean_c, rstd_c, sample, slab, block, 0, position_blocks,
            slab_channels, num_channels, num_positions, group_size,
            CHANNELS_LAST, ACTIVATION, HAS_R, BLOCK_C, BLOCK_S,
        )  # fmt: skip
        keep_sums(sums, sample, channels, ok, dbias, dweight, num_samples, num_channels)
        of_a += fold(dbias * weight_c, group_c, BLOCK_G)
        of_ax += fold(dweight * weight_c, group_c, BLOCK_G)
    count = 1.0 * group_size * num_positions
    write_tiles(
        x, dy, r, weight, bias, statistics, dx, dr, of_a / count, of_ax / count, sample, slab,
        0, channel_blocks * position_blocks, slab_channels, num_samples, num_channels,
        num_positions, num_groups, group_size, channel_blocks, position_blocks,
        CHANNELS_LAST, ACTIVATION, HAS_R, HAS_W, HAS_B, NEEDS_R, BLOCK_C, BLOCK_S, BLOCK_G,
    )  # fmt: skip


@triton.jit(do_not_specialize=SIZES)
def partial_sums(
    x, dy, r, weight, bias, statistics, sums,
    num_samples, num_channels, num_positions, num_groups, group_size, channel_blocks,
    position_blocks, blocks_per_split,
    CHANNELS_LAST: tl.constexpr, MULTIPLE: tl.constexpr, ACTIVATION: tl.constexpr,
    HAS_R: tl.constexpr, HAS_W: tl.constexpr, HAS_B: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Sums of dz and dz * xhat over a split's positions: (2, splits, N, C).

    A program has a block of neighbouring channels, whatever their groups.
    """
    split = tl.program_id(1)
    sample, block = tl.program_id(0) // channel_blocks, tl.program_id(0) % channel_blocks
    if CHANNELS_LAST:
        num_channels = divided(num_channels, MULTIPLE)
    else:
        num_positions = divided(num_positions, MULTIPLE)
    channels = block * BLOCK_C + tl.arange(0, BLOCK_C)
    ok = channels < num_channels
    weight_c, bias_c, mean_c, rstd_c = known_of_channels(
        weight, bias, statistics, sample, channels, ok, num_samples, num_groups, group_size,
        HAS_W, HAS_B,
    )  # fmt: skip
    first = split * blocks_per_split
    dbias, dweight = sums_of(
        x, dy, r, weight_c, bias_c, mean_c, rstd_c, sample, 0, block,
        first, tl.minimum(first + blocks_per_split, position_blocks),
        num_channels, num_channels, num_positions, group_size,
        CHANNELS_LAST, ACTIVATION, HAS_R, BLOCK_C, BLOCK_S,
    )  # fmt: skip
    keep_sums(
        sums, split * num_samples + sample, channels, ok, dbias, dweight,
        tl.num_programs(1) * num_samples, num_channels,
    )  # fmt: skip


@triton.jit
def merged_sums(
    sums, weight, sample, slab, splits, slab_channels, num_samples, num_channels, group_size,
    channel_blocks, HAS_W: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Sums of dz * gamma and dz * gamma * xhat of a slab's groups, from (2, splits, N, C)."""
    size = wide(num_samples) * num_channels
    of_a = tl.zeros([BLOCK_G], tl.float32)
    of_ax = tl.zeros([BLOCK_G], tl.float32)
    each = tl.arange(0, BLOCK_P)
    group_c = groups_of_lanes(slab_channels, group_size, BLOCK_C)
    for block in range(channel_blocks):
        local = tl.full([], BLOCK_C, tl.int32) * block + tl.arange(0, BLOCK_C)
        channels = slab * slab_channels + local
        ok = (local < slab_channels) & (channels < num_channels)
        weight_c = gamma_of(weight, channels, ok, HAS_W)
        row = wide(sample) * num_channels + channels
        at = row[None, :] + each.to(tl.int64)[:, None] * size
        there = ok[None, :] & (each < splits)[:, None]
        dbias = tl.sum(load_written(sums + at, there), 0)
        dweight = tl.sum(load_written(sums + at + size * splits, there), 0)
        of_a += fold(dbias * weight_c, group_c, BLOCK_G)
        of_ax += fold(dweight * weight_c, group_c, BLOCK_G)
    return of_a, of_ax


@triton.jit(do_not_specialize=SIZES)
def apply_backward(
    x, dy, r, weight, bias, statistics, dx, dr, sums,
    num_samples, num_channels, num_positions, num_groups, group_size, slab_groups, slabs,
    channel_blocks, position_blocks, tiles_per_part, splits,
    CHANNELS_LAST: tl.constexpr, MULTIPLE: tl.constexpr, ACTIVATION: tl.constexpr,
    HAS_R: tl.constexpr, HAS_W: tl.constexpr, HAS_B: tl.constexpr, NEEDS_R: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Merge the sums of a slab's channels, (2, splits, N, C), and write some of its tiles.

    From the end to the beginning, as `apply_forward`.
    """
    part = tl.num_programs(1) - 1 - tl.program_id(1)
    sample, slab, slab_channels, num_channels, num_positions = slab_of(
        tl.num_programs(0) - 1 - tl.program_id(0), slabs, slab_groups, group_size, num_channels,
        num_positions, CHANNELS_LAST, MULTIPLE,
    )  # fmt: skip
    of_a, of_ax = merged_sums(
        sums, weight, sample, slab, splits, slab_channels, num_samples, num_channels, group_size,
        channel_blocks, HAS_W, BLOCK_C, BLOCK_G, BLOCK_P,
    )  # fmt: skip
    count = 1.0 * group_size * num_positions
    first = part * tiles_per_part
    write_tiles(
        x, dy, r, weight, bias, statistics, dx, dr, of_a / count, of_ax / count, sample, slab,
        first, tl.minimum(first + tiles_per_part, channel_blocks * position_blocks),
        slab_channels, num_samples, num_channels, num_positions, num_groups, group_size,
        channel_blocks, position_blocks,
        CHANNELS_LAST, ACTIVATION, HAS_R, HAS_W, HAS_B, NEEDS_R, BLOCK_C, BLOCK_S, BLOCK_G,
    )  # fmt: skip
