"""The Triton kernels of the forward pass.

`resident_forward` holds a tile on chip and takes one pass over memory. Tiles that do not fit take
two: by one program in `looped_forward`, whose second pass finds most in the cache, or by several,
of which the first launch leaves the statistics of every part of a tile in memory, and the second
merges them, always in the same order, and normalizes. Statistics are taken of centred values,
never as E[x^2] - E[x]^2 of raw ones.
"""

from __future__ import annotations

import triton
import triton.language as tl

from groupnorm.ops.group_norm.triton.kernels.activations import activate
from groupnorm.ops.group_norm.triton.kernels.tiles import (
    SIZES,
    beta_of,
    fold,
    gamma_of,
    groups_of,
    groups_of_lanes,
    load_written,
    numbered_block,
    spread,
    tile_of,
    to_int64,
    with_residual,
)


@triton.jit(do_not_specialize=SIZES)
def resident_forward(
    p_x, p_r, p_weight, p_bias, p_y, p_statistics,
    num_samples, num_channels, num_positions, num_groups, group_size, tile_groups, tiles, eps,
    CHANNELS_LAST: tl.constexpr, MULTIPLE: tl.constexpr, ACTIVATION: tl.constexpr,
    HAS_R: tl.constexpr, HAS_W: tl.constexpr, HAS_B: tl.constexpr, HAS_STATISTICS: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """A tile in one block. Statistics: mean and rstd, (2, N, G)."""
    sample, tile, tile_channels, num_channels, num_positions = tile_of(
        tl.program_id(0), tiles, tile_groups, group_size, num_channels, num_positions,
        CHANNELS_LAST, MULTIPLE,
    )  # fmt: skip
    group_c = groups_of_lanes(tile_channels, group_size, BLOCK_C)
    channels, c_mask, mask, offs, _ = numbered_block(
        tl.full([], 0, tl.int32), sample, tile, tile_channels, group_size, num_channels,
        num_positions, 1, 1, CHANNELS_LAST, BLOCK_C, BLOCK_S,
    )  # fmt: skip
    count = 1.0 * group_size * num_positions
    values = tl.load(p_x + offs, mask=mask, other=0.0).to(tl.float32)
    mean = fold(tl.sum(values, 1), group_c, BLOCK_G) / count
    centred = tl.where(mask, values - spread(mean, group_c, BLOCK_G)[:, None], 0.0)
    # what rounding of the mean left
    residual_mean = fold(tl.sum(centred, 1), group_c, BLOCK_G) / count
    centred = tl.where(mask, centred - spread(residual_mean, group_c, BLOCK_G)[:, None], 0.0)
    variance = fold(tl.sum(centred * centred, 1), group_c, BLOCK_G) / count
    rstd = 1.0 / tl.sqrt(variance + eps)

    scale = spread(rstd, group_c, BLOCK_G) * gamma_of(p_weight, channels, c_mask, HAS_W)
    z = centred * scale[:, None] + beta_of(p_bias, channels, c_mask, HAS_B)[:, None]
    z = with_residual(z, p_r, offs, mask, HAS_R)
    tl.store(p_y + offs, activate(z, ACTIVATION).to(p_y.dtype.element_ty), mask=mask)
    if HAS_STATISTICS:
        store_statistics(
            p_statistics, sample, tile, mean + residual_mean, rstd, num_samples, num_groups,
            tile_groups,
            BLOCK_G,
        )  # fmt: skip


@triton.jit
def store_statistics(
    p_statistics, sample, tile, mean, rstd, num_samples, num_groups, tile_groups,
    BLOCK_G: tl.constexpr,
):  # fmt: skip
    """Write mean and rstd of a tile's groups."""
    groups, g_mask = groups_of(tile, tile_groups, num_groups, BLOCK_G)
    offs = to_int64(sample) * num_groups + groups
    tl.store(p_statistics + offs, mean, mask=g_mask)
    tl.store(p_statistics + offs + to_int64(num_samples) * num_groups, rstd, mask=g_mask)


@triton.jit
def statistics_of(
    p_x, sample, tile, first, last, tile_channels, group_size, num_channels, num_positions,
    channel_blocks, position_blocks,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """Of some blocks of a tile, for each group: a shift, the mean beside it, M2 and the count.

    The shift is the mean of the first block. The sums of (x - shift) and of its square can then
    cancel by no more than the number of blocks.
    """
    group_c = groups_of_lanes(tile_channels, group_size, BLOCK_C)
    _, _, mask, offs, in_block = numbered_block(
        first, sample, tile, tile_channels, group_size, num_channels, num_positions,
        channel_blocks, position_blocks, CHANNELS_LAST, BLOCK_C, BLOCK_S,
    )  # fmt: skip
    values = tl.load(p_x + offs, mask=mask, other=0.0).to(tl.float32)
    shift = fold(tl.sum(values, 1), group_c, BLOCK_G) / in_block
    shift_c = spread(shift, group_c, BLOCK_G)
    count = 0.0
    total = tl.zeros([BLOCK_C, BLOCK_S], tl.float32)
    squares = tl.zeros([BLOCK_C, BLOCK_S], tl.float32)
    for number in range(first, last):
        _, _, mask, offs, in_block = numbered_block(
            number, sample, tile, tile_channels, group_size, num_channels, num_positions,
            channel_blocks, position_blocks, CHANNELS_LAST, BLOCK_C, BLOCK_S,
        )  # fmt: skip
        values = tl.load(p_x + offs, mask=mask, other=0.0).to(tl.float32)
        values = tl.where(mask, values - shift_c[:, None], 0.0)
        total += values
        squares += values * values
        count += in_block

    total_g = fold(tl.sum(total, 1), group_c, BLOCK_G)
    mean = total_g / count
    m2 = tl.maximum(fold(tl.sum(squares, 1), group_c, BLOCK_G) - total_g * mean, 0.0)
    return shift, mean, m2, count


@triton.jit
def normalize(
    p_x, p_r, p_weight, p_bias, p_y, shift, mean, rstd, sample, tile, first, last, tile_channels,
    group_size,
    num_channels, num_positions, channel_blocks, position_blocks,
    CHANNELS_LAST: tl.constexpr, ACTIVATION: tl.constexpr,
    HAS_R: tl.constexpr, HAS_W: tl.constexpr, HAS_B: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """Write some blocks of a tile, the last one first, which the cache most likely still holds."""
    group_c = groups_of_lanes(tile_channels, group_size, BLOCK_C)
    shift_c = spread(shift, group_c, BLOCK_G)
    mean_c = spread(mean, group_c, BLOCK_G)
    rstd_c = spread(rstd, group_c, BLOCK_G)
    for number in range(first, last):
        channels, c_mask, mask, offs, _ = numbered_block(
            first + last - 1 - number, sample, tile, tile_channels, group_size, num_channels,
            num_positions, channel_blocks, position_blocks, CHANNELS_LAST, BLOCK_C, BLOCK_S,
        )  # fmt: skip
        values = tl.load(p_x + offs, mask=mask, other=0.0).to(tl.float32)
        centred = (values - shift_c[:, None]) - mean_c[:, None]
        scale = rstd_c * gamma_of(p_weight, channels, c_mask, HAS_W)
        z = centred * scale[:, None] + beta_of(p_bias, channels, c_mask, HAS_B)[:, None]
        z = with_residual(z, p_r, offs, mask, HAS_R)
        tl.store(p_y + offs, activate(z, ACTIVATION).to(p_y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=SIZES)
def looped_forward(
    p_x, p_r, p_weight, p_bias, p_y, p_statistics,
    num_samples, num_channels, num_positions, num_groups, group_size, tile_groups, tiles,
    channel_blocks, position_blocks, eps,
    CHANNELS_LAST: tl.constexpr, MULTIPLE: tl.constexpr, ACTIVATION: tl.constexpr,
    HAS_R: tl.constexpr, HAS_W: tl.constexpr, HAS_B: tl.constexpr, HAS_STATISTICS: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """A tile in many blocks, by one program."""
    sample, tile, tile_channels, num_channels, num_positions = tile_of(
        tl.program_id(0), tiles, tile_groups, group_size, num_channels, num_positions,
        CHANNELS_LAST, MULTIPLE,
    )  # fmt: skip
    blocks = channel_blocks * position_blocks
    shift, mean, m2, count = statistics_of(
        p_x, sample, tile, 0, blocks, tile_channels, group_size, num_channels, num_positions,
        channel_blocks, position_blocks, CHANNELS_LAST, BLOCK_C, BLOCK_S, BLOCK_G,
    )  # fmt: skip
    rstd = 1.0 / tl.sqrt(m2 / count + eps)
    if HAS_STATISTICS:
        store_statistics(
            p_statistics, sample, tile, shift + mean, rstd, num_samples, num_groups, tile_groups,
            BLOCK_G,
        )  # fmt: skip
    normalize(
        p_x, p_r, p_weight, p_bias, p_y, shift, mean, rstd, sample, tile, 0, blocks, tile_channels,
        group_size, num_channels, num_positions, channel_blocks, position_blocks,
        CHANNELS_LAST, ACTIVATION, HAS_R, HAS_W, HAS_B, BLOCK_C, BLOCK_S, BLOCK_G,
    )  # fmt: skip


@triton.jit(do_not_specialize=SIZES)
def partial_statistics(
    p_x, p_partials,
    num_samples, num_channels, num_positions, num_groups, group_size, tile_groups, tiles,
    channel_blocks, position_blocks, blocks_per_part,
    CHANNELS_LAST: tl.constexpr, MULTIPLE: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """The statistics of one part of a tile. Partials: (4, N, G, parts)."""
    part = tl.program_id(1)
    sample, tile, tile_channels, num_channels, num_positions = tile_of(
        tl.program_id(0), tiles, tile_groups, group_size, num_channels, num_positions,
        CHANNELS_LAST, MULTIPLE,
    )  # fmt: skip
    first = part * blocks_per_part
    last = tl.minimum(first + blocks_per_part, channel_blocks * position_blocks)
    shift, mean, m2, count = statistics_of(
        p_x, sample, tile, first, last, tile_channels, group_size, num_channels, num_positions,
        channel_blocks, position_blocks, CHANNELS_LAST, BLOCK_C, BLOCK_S, BLOCK_G,
    )  # fmt: skip
    store_partials(
        p_partials, sample, tile, part, tl.num_programs(1), shift, mean, m2, count, num_samples,
        num_groups, tile_groups, BLOCK_G,
    )  # fmt: skip


@triton.jit
def store_partials(
    p_partials, sample, tile, part, parts, shift, mean, m2, count, num_samples, num_groups,
    tile_groups, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """Write the statistics of one part of a tile."""
    groups, g_mask = groups_of(tile, tile_groups, num_groups, BLOCK_G)
    offs = (to_int64(sample) * num_groups + groups) * parts + part
    size = to_int64(num_samples) * num_groups * parts
    tl.store(p_partials + offs, shift, mask=g_mask)
    tl.store(p_partials + offs + size, mean, mask=g_mask)
    tl.store(p_partials + offs + 2 * size, m2, mask=g_mask)
    tl.store(p_partials + offs + 3 * size, tl.zeros([BLOCK_G], tl.float32) + count, mask=g_mask)


@triton.jit
def merged_statistics(
    p_partials, sample, tile, parts, num_samples, num_groups, tile_groups, count, eps,
    BLOCK_G: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """A shift, the mean beside it, and rstd of a tile's groups; partials: (4, N, G, parts)."""
    groups, g_mask = groups_of(tile, tile_groups, num_groups, BLOCK_G)
    row = (to_int64(sample) * num_groups + groups) * parts
    size = to_int64(num_samples) * num_groups * parts
    o_part = tl.arange(0, BLOCK_P)
    offs = row[:, None] + o_part[None, :]
    mask = g_mask[:, None] & (o_part < parts)[None, :]
    shift = load_written(p_partials + row, g_mask)
    shifts = load_written(p_partials + offs, mask)
    means = load_written(p_partials + offs + size, mask)
    m2s = load_written(p_partials + offs + 2 * size, mask)
    counts = load_written(p_partials + offs + 3 * size, mask)
    part_mean = tl.where(mask, (shifts - shift[:, None]) + means, 0.0)
    mean = tl.sum(counts * part_mean, 1) / count
    delta = tl.where(mask, part_mean - mean[:, None], 0.0)
    variance = tl.sum(m2s + counts * delta * delta, 1) / count
    return shift, mean, 1.0 / tl.sqrt(variance + eps)


@triton.jit(do_not_specialize=SIZES)
def apply_forward(
    p_x, p_r, p_weight, p_bias, p_y, p_statistics, p_partials,
    num_samples, num_channels, num_positions, num_groups, group_size, tile_groups, tiles,
    channel_blocks, position_blocks, blocks_per_part, eps,
    CHANNELS_LAST: tl.constexpr, MULTIPLE: tl.constexpr, ACTIVATION: tl.constexpr,
    HAS_R: tl.constexpr, HAS_W: tl.constexpr, HAS_B: tl.constexpr, HAS_STATISTICS: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Merge the partial statistics of a tile, and normalize the blocks of one part.

    Programs go from the end to the beginning: what `partial_statistics` read last is what the
    cache still holds.
    """
    parts = tl.num_programs(1)
    part = parts - 1 - tl.program_id(1)
    sample, tile, tile_channels, num_channels, num_positions = tile_of(
        tl.num_programs(0) - 1 - tl.program_id(0), tiles, tile_groups, group_size, num_channels,
        num_positions, CHANNELS_LAST, MULTIPLE,
    )  # fmt: skip
    shift, mean, rstd = merged_statistics(
        p_partials, sample, tile, parts, num_samples, num_groups, tile_groups,
        1.0 * group_size * num_positions, eps, BLOCK_G, BLOCK_P,
    )  # fmt: skip
    if HAS_STATISTICS:  # noqa: SIM102  this the compiler knows, the other not
        if part == 0:
            store_statistics(
                p_statistics, sample, tile, shift + mean, rstd, num_samples, num_groups,
                tile_groups, BLOCK_G,
            )  # fmt: skip

    first = part * blocks_per_part
    last = tl.minimum(first + blocks_per_part, channel_blocks * position_blocks)
    normalize(
        p_x, p_r, p_weight, p_bias, p_y, shift, mean, rstd, sample, tile, first, last,
        tile_channels,
        group_size, num_channels, num_positions, channel_blocks, position_blocks,
        CHANNELS_LAST, ACTIVATION, HAS_R, HAS_W, HAS_B, BLOCK_C, BLOCK_S, BLOCK_G,
    )  # fmt: skip
