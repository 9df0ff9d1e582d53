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
    numbered_block,
    spread,
    tile_of,
    to_int64,
    with_residual,
)


@triton.jit
def load_per_channel(
    p_weight, p_bias, p_statistics, sample, channels, c_mask, num_samples, num_groups, group_size,
    HAS_W: tl.constexpr, HAS_B: tl.constexpr,
):  # fmt: skip
    """gamma, beta, mean and rstd of channels."""
    ptrs = p_statistics + to_int64(sample) * num_groups + channels // group_size
    mean_c = tl.load(ptrs, mask=c_mask, other=0.0)
    rstd_c = tl.load(ptrs + to_int64(num_samples) * num_groups, mask=c_mask, other=0.0)
    weight_c = gamma_of(p_weight, channels, c_mask, HAS_W)
    return weight_c, beta_of(p_bias, channels, c_mask, HAS_B), mean_c, rstd_c


@triton.jit
def _load_gradient(
    p_x, p_dy, p_r, offs, mask, mean_c, rstd_c, weight_c, bias_c,
    ACTIVATION: tl.constexpr, HAS_R: tl.constexpr,
):  # fmt: skip
    """xhat and dz = dy * activation'(z) of a block; both 0 outside the mask."""
    values = tl.load(p_x + offs, mask=mask, other=0.0).to(tl.float32)
    xhat = tl.where(mask, (values - mean_c[:, None]) * rstd_c[:, None], 0.0)
    dz = tl.load(p_dy + offs, mask=mask, other=0.0).to(tl.float32)
    if ACTIVATION != 0:
        z = xhat * weight_c[:, None] + bias_c[:, None]
        z = with_residual(z, p_r, offs, mask, HAS_R)
        dz = tl.where(mask, dz * slope(z, ACTIVATION), 0.0)
    return xhat, dz


@triton.jit
def write_block(
    p_dx, p_dr, offs, mask, xhat, dz, weight_c, rstd_c, a_c, ax_c, NEEDS_R: tl.constexpr
):  # fmt: skip
    """dx and dr of a block, from the means of dz * gamma and dz * gamma * xhat of its groups."""
    if NEEDS_R:
        tl.store(p_dr + offs, dz.to(p_dr.dtype.element_ty), mask=mask)
    inner = dz * weight_c[:, None] - a_c[:, None] - xhat * ax_c[:, None]
    tl.store(p_dx + offs, (rstd_c[:, None] * inner).to(p_dx.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=SIZES)
def resident_backward(
    p_x, p_dy, p_r, p_weight, p_bias, p_statistics, p_dx, p_dr, p_sums,
    num_samples, num_channels, num_positions, num_groups, group_size, tile_groups, tiles,
    CHANNELS_LAST: tl.constexpr, MULTIPLE: tl.constexpr, ACTIVATION: tl.constexpr,
    HAS_R: tl.constexpr, HAS_W: tl.constexpr, HAS_B: tl.constexpr, NEEDS_R: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """A tile in one block: dx, dr, and the sums of dz and dz * xhat per sample and channel."""
    sample, tile, tile_channels, num_channels, num_positions = tile_of(
        tl.program_id(0), tiles, tile_groups, group_size, num_channels, num_positions,
        CHANNELS_LAST, MULTIPLE,
    )  # fmt: skip
    group_c = groups_of_lanes(tile_channels, group_size, BLOCK_C)
    channels, c_mask, mask, offs, _ = numbered_block(
        tl.full([], 0, tl.int32), sample, tile, tile_channels, group_size, num_channels,
        num_positions, 1, 1, CHANNELS_LAST, BLOCK_C, BLOCK_S,
    )  # fmt: skip
    weight_c, bias_c, mean_c, rstd_c = load_per_channel(
        p_weight, p_bias, p_statistics, sample, channels, c_mask, num_samples, num_groups,
        group_size,
        HAS_W, HAS_B,
    )  # fmt: skip
    xhat, dz = _load_gradient(
        p_x, p_dy, p_r, offs, mask, mean_c, rstd_c, weight_c, bias_c, ACTIVATION, HAS_R
    )
    dbias = tl.sum(dz, 1)
    dweight = tl.sum(dz * xhat, 1)
    store_sums(p_sums, sample, channels, c_mask, dbias, dweight, num_samples, num_channels)
    count = 1.0 * group_size * num_positions
    mean_a = fold(dbias * weight_c, group_c, BLOCK_G) / count
    mean_ax = fold(dweight * weight_c, group_c, BLOCK_G) / count
    a_c = spread(mean_a, group_c, BLOCK_G)
    ax_c = spread(mean_ax, group_c, BLOCK_G)
    write_block(p_dx, p_dr, offs, mask, xhat, dz, weight_c, rstd_c, a_c, ax_c, NEEDS_R)


@triton.jit
def sums_of(
    p_x, p_dy, p_r, weight_c, bias_c, mean_c, rstd_c, sample, tile, channel_block, first, last,
    tile_channels, num_channels, num_positions, group_size,
    CHANNELS_LAST: tl.constexpr, ACTIVATION: tl.constexpr, HAS_R: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Sums of dz and dz * xhat of a block of channels, over some blocks of positions."""
    sum_dz = tl.zeros([BLOCK_C, BLOCK_S], tl.float32)
    sum_dzx = tl.zeros([BLOCK_C, BLOCK_S], tl.float32)
    for position_block in range(first, last):
        _, _, mask, offs, _ = block_at(
            channel_block, position_block, sample, tile, tile_channels, group_size, num_channels,
            num_positions, CHANNELS_LAST, BLOCK_C, BLOCK_S,
        )  # fmt: skip
        xhat, dz = _load_gradient(
            p_x, p_dy, p_r, offs, mask, mean_c, rstd_c, weight_c, bias_c, ACTIVATION, HAS_R
        )
        sum_dz += dz
        sum_dzx += dz * xhat
    return tl.sum(sum_dz, 1), tl.sum(sum_dzx, 1)


@triton.jit
def store_sums(p_sums, row, channels, c_mask, dbias, dweight, num_rows, num_channels):
    """Write row `row` of both sums, (2, rows, C)."""
    offs = to_int64(row) * num_channels + channels
    tl.store(p_sums + offs, dbias, mask=c_mask)
    tl.store(p_sums + offs + to_int64(num_rows) * num_channels, dweight, mask=c_mask)


@triton.jit
def write_blocks(
    p_x, p_dy, p_r, p_weight, p_bias, p_statistics, p_dx, p_dr, mean_a, mean_ax, sample, tile,
    first, last,
    tile_channels, num_samples, num_channels, num_positions, num_groups, group_size,
    channel_blocks, position_blocks,
    CHANNELS_LAST: tl.constexpr, ACTIVATION: tl.constexpr,
    HAS_R: tl.constexpr, HAS_W: tl.constexpr, HAS_B: tl.constexpr, NEEDS_R: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """Write dx and dr of some blocks of a tile, the last one first, as in the forward pass."""
    group_c = groups_of_lanes(tile_channels, group_size, BLOCK_C)
    a_c = spread(mean_a, group_c, BLOCK_G)
    ax_c = spread(mean_ax, group_c, BLOCK_G)
    for number in range(first, last):
        channels, c_mask, mask, offs, _ = numbered_block(
            first + last - 1 - number, sample, tile, tile_channels, group_size, num_channels,
            num_positions, channel_blocks, position_blocks, CHANNELS_LAST, BLOCK_C, BLOCK_S,
        )  # fmt: skip
        weight_c, bias_c, mean_c, rstd_c = load_per_channel(
            p_weight, p_bias, p_statistics, sample, channels, c_mask, num_samples, num_groups,
            group_size,
            HAS_W, HAS_B,
        )  # fmt: skip
        xhat, dz = _load_gradient(
            p_x, p_dy, p_r, offs, mask, mean_c, rstd_c, weight_c, bias_c, ACTIVATION, HAS_R
        )
        write_block(p_dx, p_dr, offs, mask, xhat, dz, weight_c, rstd_c, a_c, ax_c, NEEDS_R)


@triton.jit(do_not_specialize=SIZES)
def looped_backward(
    p_x, p_dy, p_r, p_weight, p_bias, p_statistics, p_dx, p_dr, p_sums,
    num_samples, num_channels, num_positions, num_groups, group_size, tile_groups, tiles,
    channel_blocks, position_blocks,
    CHANNELS_LAST: tl.constexpr, MULTIPLE: tl.constexpr, ACTIVATION: tl.constexpr,
    HAS_R: tl.constexpr, HAS_W: tl.constexpr, HAS_B: tl.constexpr, NEEDS_R: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """A tile in many blocks, by one program; the same results as `resident_backward`."""
    sample, tile, tile_channels, num_channels, num_positions = tile_of(
        tl.program_id(0), tiles, tile_groups, group_size, num_channels, num_positions,
        CHANNELS_LAST, MULTIPLE,
    )  # fmt: skip
    sum_a = tl.zeros([BLOCK_G], tl.float32)
    sum_ax = tl.zeros([BLOCK_G], tl.float32)
    group_c = groups_of_lanes(tile_channels, group_size, BLOCK_C)
    for channel_block in range(channel_blocks):
        local = tl.full([], BLOCK_C, tl.int32) * channel_block + tl.arange(0, BLOCK_C)
        channels = tile * tile_channels + local
        c_mask = (local < tile_channels) & (channels < num_channels)
        weight_c, bias_c, mean_c, rstd_c = load_per_channel(
            p_weight, p_bias, p_statistics, sample, channels, c_mask, num_samples, num_groups,
            group_size,
            HAS_W, HAS_B,
        )  # fmt: skip
        dbias, dweight = sums_of(
            p_x, p_dy, p_r, weight_c, bias_c, mean_c, rstd_c, sample, tile, channel_block, 0,
            position_blocks,
            tile_channels, num_channels, num_positions, group_size,
            CHANNELS_LAST, ACTIVATION, HAS_R, BLOCK_C, BLOCK_S,
        )  # fmt: skip
        store_sums(p_sums, sample, channels, c_mask, dbias, dweight, num_samples, num_channels)
        sum_a += fold(dbias * weight_c, group_c, BLOCK_G)
        sum_ax += fold(dweight * weight_c, group_c, BLOCK_G)
    count = 1.0 * group_size * num_positions
    write_blocks(
        p_x, p_dy, p_r, p_weight, p_bias, p_statistics, p_dx, p_dr, sum_a / count, sum_ax / count,
        sample, tile,
        0, channel_blocks * position_blocks, tile_channels, num_samples, num_channels,
        num_positions, num_groups, group_size, channel_blocks, position_blocks,
        CHANNELS_LAST, ACTIVATION, HAS_R, HAS_W, HAS_B, NEEDS_R, BLOCK_C, BLOCK_S, BLOCK_G,
    )  # fmt: skip


@triton.jit(do_not_specialize=SIZES)
def partial_sums(
    p_x, p_dy, p_r, p_weight, p_bias, p_statistics, p_sums,
    num_samples, num_channels, num_positions, num_groups, group_size, channel_blocks,
    position_blocks, position_blocks_per_split,
    CHANNELS_LAST: tl.constexpr, MULTIPLE: tl.constexpr, ACTIVATION: tl.constexpr,
    HAS_R: tl.constexpr, HAS_W: tl.constexpr, HAS_B: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Sums of dz and dz * xhat over a split's positions: (2, splits, N, C).

    A program has a block of neighbouring channels, whatever their groups.
    """
    split = tl.program_id(1)
    sample, channel_block = tl.program_id(0) // channel_blocks, tl.program_id(0) % channel_blocks
    if CHANNELS_LAST:
        num_channels = divided(num_channels, MULTIPLE)
    else:
        num_positions = divided(num_positions, MULTIPLE)
    channels = channel_block * BLOCK_C + tl.arange(0, BLOCK_C)
    c_mask = channels < num_channels
    weight_c, bias_c, mean_c, rstd_c = load_per_channel(
        p_weight, p_bias, p_statistics, sample, channels, c_mask, num_samples, num_groups,
        group_size,
        HAS_W, HAS_B,
    )  # fmt: skip
    first = split * position_blocks_per_split
    dbias, dweight = sums_of(
        p_x, p_dy, p_r, weight_c, bias_c, mean_c, rstd_c, sample, 0, channel_block,
        first, tl.minimum(first + position_blocks_per_split, position_blocks),
        num_channels, num_channels, num_positions, group_size,
        CHANNELS_LAST, ACTIVATION, HAS_R, BLOCK_C, BLOCK_S,
    )  # fmt: skip
    store_sums(
        p_sums, split * num_samples + sample, channels, c_mask, dbias, dweight,
        tl.num_programs(1) * num_samples, num_channels,
    )  # fmt: skip


@triton.jit
def merged_sums(
    p_sums, p_weight, sample, tile, splits, tile_channels, num_samples, num_channels, group_size,
    channel_blocks, HAS_W: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Sums of dz * gamma and dz * gamma * xhat of a tile's groups, from (2, splits, N, C)."""
    size = to_int64(num_samples) * num_channels
    sum_a = tl.zeros([BLOCK_G], tl.float32)
    sum_ax = tl.zeros([BLOCK_G], tl.float32)
    o_split = tl.arange(0, BLOCK_P)
    group_c = groups_of_lanes(tile_channels, group_size, BLOCK_C)
    for channel_block in range(channel_blocks):
        local = tl.full([], BLOCK_C, tl.int32) * channel_block + tl.arange(0, BLOCK_C)
        channels = tile * tile_channels + local
        c_mask = (local < tile_channels) & (channels < num_channels)
        weight_c = gamma_of(p_weight, channels, c_mask, HAS_W)
        row = to_int64(sample) * num_channels + channels
        offs = row[None, :] + o_split.to(tl.int64)[:, None] * size
        mask = c_mask[None, :] & (o_split < splits)[:, None]
        dbias = tl.sum(load_written(p_sums + offs, mask), 0)
        dweight = tl.sum(load_written(p_sums + offs + size * splits, mask), 0)
        sum_a += fold(dbias * weight_c, group_c, BLOCK_G)
        sum_ax += fold(dweight * weight_c, group_c, BLOCK_G)
    return sum_a, sum_ax


@triton.jit(do_not_specialize=SIZES)
def apply_backward(
    p_x, p_dy, p_r, p_weight, p_bias, p_statistics, p_dx, p_dr, p_sums,
    num_samples, num_channels, num_positions, num_groups, group_size, tile_groups, tiles,
    channel_blocks, position_blocks, blocks_per_part, splits,
    CHANNELS_LAST: tl.constexpr, MULTIPLE: tl.constexpr, ACTIVATION: tl.constexpr,
    HAS_R: tl.constexpr, HAS_W: tl.constexpr, HAS_B: tl.constexpr, NEEDS_R: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Merge the sums of a tile's channels, (2, splits, N, C), and write some of its blocks.

    From the end to the beginning, as `apply_forward`.
    """
    part = tl.num_programs(1) - 1 - tl.program_id(1)
    sample, tile, tile_channels, num_channels, num_positions = tile_of(
        tl.num_programs(0) - 1 - tl.program_id(0), tiles, tile_groups, group_size, num_channels,
        num_positions, CHANNELS_LAST, MULTIPLE,
    )  # fmt: skip
    sum_a, sum_ax = merged_sums(
        p_sums, p_weight, sample, tile, splits, tile_channels, num_samples, num_channels,
        group_size,
        channel_blocks, HAS_W, BLOCK_C, BLOCK_G, BLOCK_P,
    )  # fmt: skip
    count = 1.0 * group_size * num_positions
    first = part * blocks_per_part
    write_blocks(
        p_x, p_dy, p_r, p_weight, p_bias, p_statistics, p_dx, p_dr, sum_a / count, sum_ax / count,
        sample, tile,
        first, tl.minimum(first + blocks_per_part, channel_blocks * position_blocks),
        tile_channels, num_samples, num_channels, num_positions, num_groups, group_size,
        channel_blocks, position_blocks,
        CHANNELS_LAST, ACTIVATION, HAS_R, HAS_W, HAS_B, NEEDS_R, BLOCK_C, BLOCK_S, BLOCK_G,
    )  # fmt: skip
