"""The Triton kernels of the forward pass.

`resident_forward` holds a slab on chip and walks over memory once. Slabs that do not fit are walked
over twice: by one program in `looped_forward`, whose second walk finds most in the cache, or by
several, of which the first launch leaves the statistics of every part of a slab in memory, and the
second merges them, always in the same order, and normalizes. Statistics are taken of centred
values, never as E[x^2] - E[x]^2 of raw ones.
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
    slab_of,
    spread,
    tile_at,
    wide,
    with_residual,
)


@triton.jit(do_not_specialize=SIZES)
def resident_forward(
    x, r, weight, bias, y, statistics,
    num_samples, num_channels, num_positions, num_groups, group_size, slab_groups, slabs, eps,
    CHANNELS_LAST: tl.constexpr, MULTIPLE: tl.constexpr, ACTIVATION: tl.constexpr,
    HAS_R: tl.constexpr, HAS_W: tl.constexpr, HAS_B: tl.constexpr, HAS_STATISTICS: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """A slab in one tile. Statistics: mean and rstd, (2, N, G)."""
    sample, slab, slab_channels, num_channels, num_positions = slab_of(
        tl.program_id(0), slabs, slab_groups, group_size, num_channels, num_positions,
        CHANNELS_LAST, MULTIPLE,
    )  # fmt: skip
    group_c = groups_of_lanes(slab_channels, group_size, BLOCK_C)
    channels, ok, mask, places, _ = tile_at(
        tl.full([], 0, tl.int32), sample, slab, slab_channels, group_size, num_channels,
        num_positions, 1, 1, CHANNELS_LAST, BLOCK_C, BLOCK_S,
    )  # fmt: skip
    count = 1.0 * group_size * num_positions
    tile = tl.load(x + places, mask=mask, other=0.0).to(tl.float32)
    mean = fold(tl.sum(tile, 1), group_c, BLOCK_G) / count
    centred = tl.where(mask, tile - spread(mean, group_c, BLOCK_G)[:, None], 0.0)
    rest = fold(tl.sum(centred, 1), group_c, BLOCK_G) / count  # what rounding of the mean left
    centred = tl.where(mask, centred - spread(rest, group_c, BLOCK_G)[:, None], 0.0)
    variance = fold(tl.sum(centred * centred, 1), group_c, BLOCK_G) / count
    rstd = 1.0 / tl.sqrt(variance + eps)

    scale = spread(rstd, group_c, BLOCK_G) * gamma_of(weight, channels, ok, HAS_W)
    z = centred * scale[:, None] + beta_of(bias, channels, ok, HAS_B)[:, None]
    z = with_residual(z, r, places, mask, HAS_R)
    tl.store(y + places, activate(z, ACTIVATION).to(y.dtype.element_ty), mask=mask)
    if HAS_STATISTICS:
        keep_statistics(
            statistics, sample, slab, mean + rest, rstd, num_samples, num_groups, slab_groups,
            BLOCK_G,
        )  # fmt: skip


@triton.jit
def keep_statistics(
    statistics, sample, slab, mean, rstd, num_samples, num_groups, slab_groups,
    BLOCK_G: tl.constexpr,
):  # fmt: skip
    """Write mean and rstd of a slab's groups."""
    groups, ok = groups_of(slab, slab_groups, num_groups, BLOCK_G)
    at = wide(sample) * num_groups + groups
    tl.store(statistics + at, mean, mask=ok)
    tl.store(statistics + at + wide(num_samples) * num_groups, rstd, mask=ok)


@triton.jit
def statistics_of(
    x, sample, slab, first, last, slab_channels, group_size, num_channels, num_positions,
    channel_blocks, position_blocks,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """Of some tiles of a slab, for each group: a shift, the mean beside it, M2 and the count.

    The shift is the mean of the first tile. The sums of (x - shift) and of its square can then
    cancel by no more than the number of tiles.
    """
    group_c = groups_of_lanes(slab_channels, group_size, BLOCK_C)
    _, _, mask, places, in_tile = tile_at(
        first, sample, slab, slab_channels, group_size, num_channels, num_positions,
        channel_blocks, position_blocks, CHANNELS_LAST, BLOCK_C, BLOCK_S,
    )  # fmt: skip
    values = tl.load(x + places, mask=mask, other=0.0).to(tl.float32)
    shift = fold(tl.sum(values, 1), group_c, BLOCK_G) / in_tile
    shift_c = spread(shift, group_c, BLOCK_G)
    count = 0.0
    total = tl.zeros([BLOCK_C, BLOCK_S], tl.float32)
    squares = tl.zeros([BLOCK_C, BLOCK_S], tl.float32)
    for tile in range(first, last):
        _, _, mask, places, in_tile = tile_at(
            tile, sample, slab, slab_channels, group_size, num_channels, num_positions,
            channel_blocks, position_blocks, CHANNELS_LAST, BLOCK_C, BLOCK_S,
        )  # fmt: skip
        values = tl.load(x + places, mask=mask, other=0.0).to(tl.float32)
        values = tl.where(mask, values - shift_c[:, None], 0.0)
        total += values
        squares += values * values
        count += in_tile

    total_g = fold(tl.sum(total, 1), group_c, BLOCK_G)
    mean = total_g / count
    m2 = tl.maximum(fold(tl.sum(squares, 1), group_c, BLOCK_G) - total_g * mean, 0.0)
    return shift, mean, m2, count


@triton.jit
def normalize(
    x, r, weight, bias, y, shift, mean, rstd, sample, slab, first, last, slab_channels, group_size,
    num_channels, num_positions, channel_blocks, position_blocks,
    CHANNELS_LAST: tl.constexpr, ACTIVATION: tl.constexpr,
    HAS_R: tl.constexpr, HAS_W: tl.constexpr, HAS_B: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """Write some tiles of a slab, the last one first, which the cache most likely still holds."""
    group_c = groups_of_lanes(slab_channels, group_size, BLOCK_C)
    shift_c = spread(shift, group_c, BLOCK_G)
    mean_c = spread(mean, group_c, BLOCK_G)
    rstd_c = spread(rstd, group_c, BLOCK_G)
    for number in range(first, last):
        channels, ok, mask, places, _ = tile_at(
            first + last - 1 - number, sample, slab, slab_channels, group_size, num_channels,
            num_positions, channel_blocks, position_blocks, CHANNELS_LAST, BLOCK_C, BLOCK_S,
        )  # fmt: skip
        values = tl.load(x + places, mask=mask, other=0.0).to(tl.float32)
        centred = (values - shift_c[:, None]) - mean_c[:, None]
        scale = rstd_c * gamma_of(weight, channels, ok, HAS_W)
        z = centred * scale[:, None] + beta_of(bias, channels, ok, HAS_B)[:, None]
        z = with_residual(z, r, places, mask, HAS_R)
        tl.store(y + places, activate(z, ACTIVATION).to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=SIZES)
def looped_forward(
    x, r, weight, bias, y, statistics,
    num_samples, num_channels, num_positions, num_groups, group_size, slab_groups, slabs,
    channel_blocks, position_blocks, eps,
    CHANNELS_LAST: tl.constexpr, MULTIPLE: tl.constexpr, ACTIVATION: tl.constexpr,
    HAS_R: tl.constexpr, HAS_W: tl.constexpr, HAS_B: tl.constexpr, HAS_STATISTICS: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """A slab in many tiles, by one program."""
    sample, slab, slab_channels, num_channels, num_positions = slab_of(
        tl.program_id(0), slabs, slab_groups, group_size, num_channels, num_positions,
        CHANNELS_LAST, MULTIPLE,
    )  # fmt: skip
    tiles = channel_blocks * position_blocks
    shift, mean, m2, count = statistics_of(
        x, sample, slab, 0, tiles, slab_channels, group_size, num_channels, num_positions,
        channel_blocks, position_blocks, CHANNELS_LAST, BLOCK_C, BLOCK_S, BLOCK_G,
    )  # fmt: skip
    rstd = 1.0 / tl.sqrt(m2 / count + eps)
    if HAS_STATISTICS:
        keep_statistics(
            statistics, sample, slab, shift + mean, rstd, num_samples, num_groups, slab_groups,
            BLOCK_G,
        )  # fmt: skip
    normalize(
        x, r, weight, bias, y, shift, mean, rstd, sample, slab, 0, tiles, slab_channels,
        group_size, num_channels, num_positions, channel_blocks, position_blocks,
        CHANNELS_LAST, ACTIVATION, HAS_R, HAS_W, HAS_B, BLOCK_C, BLOCK_S, BLOCK_G,
    )  # fmt: skip


@triton.jit(do_not_specialize=SIZES)
def partial_statistics(
    x, partials,
    num_samples, num_channels, num_positions, num_groups, group_size, slab_groups, slabs,
    channel_blocks, position_blocks, tiles_per_part,
    CHANNELS_LAST: tl.constexpr, MULTIPLE: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """The statistics of one part of a slab. Partials: (4, N, G, parts)."""
    part = tl.program_id(1)
    sample, slab, slab_channels, num_channels, num_positions = slab_of(
        tl.program_id(0), slabs, slab_groups, group_size, num_channels, num_positions,
        CHANNELS_LAST, MULTIPLE,
    )  # fmt: skip
    first = part * tiles_per_part
    last = tl.minimum(first + tiles_per_part, channel_blocks * position_blocks)
    shift, mean, m2, count = statistics_of(
        x, sample, slab, first, last, slab_channels, group_size, num_channels, num_positions,
        channel_blocks, position_blocks, CHANNELS_LAST, BLOCK_C, BLOCK_S, BLOCK_G,
    )  # fmt: skip
    keep_partials(
        partials, sample, slab, part, tl.num_programs(1), shift, mean, m2, count, num_samples,
        num_groups, slab_groups, BLOCK_G,
    )  # fmt: skip


@triton.jit
def keep_partials(
    partials, sample, slab, part, parts, shift, mean, m2, count, num_samples, num_groups,
    slab_groups, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """Write the statistics of one part of a slab."""
    groups, ok = groups_of(slab, slab_groups, num_groups, BLOCK_G)
    at = (wide(sample) * num_groups + groups) * parts + part
    size = wide(num_samples) * num_groups * parts
    tl.store(partials + at, shift, mask=ok)
    tl.store(partials + at + size, mean, mask=ok)
    tl.store(partials + at + 2 * size, m2, mask=ok)
    tl.store(partials + at + 3 * size, tl.zeros([BLOCK_G], tl.float32) + count, mask=ok)


@triton.jit
def merged_statistics(
    partials, sample, slab, parts, num_samples, num_groups, slab_groups, count, eps,
    BLOCK_G: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """A shift, the mean beside it, and rstd of a slab's groups; partials: (4, N, G, parts)."""
    groups, ok_g = groups_of(slab, slab_groups, num_groups, BLOCK_G)
    row = (wide(sample) * num_groups + groups) * parts
    size = wide(num_samples) * num_groups * parts
    each = tl.arange(0, BLOCK_P)
    at = row[:, None] + each[None, :]
    there = ok_g[:, None] & (each < parts)[None, :]
    shift = load_written(partials + row, ok_g)
    shifts = load_written(partials + at, there)
    means = load_written(partials + at + size, there)
    m2s = load_written(partials + at + 2 * size, there)
    counts = load_written(partials + at + 3 * size, there)
    beside = tl.where(there, (shifts - shift[:, None]) + means, 0.0)
    mean = tl.sum(counts * beside, 1) / count
    apart = tl.where(there, beside - mean[:, None], 0.0)
    variance = tl.sum(m2s + counts * apart * apart, 1) / count
    return shift, mean, 1.0 / tl.sqrt(variance + eps)


@triton.jit(do_not_specialize=SIZES)
def apply_forward(
    x, r, weight, bias, y, statistics, partials,
    num_samples, num_channels, num_positions, num_groups, group_size, slab_groups, slabs,
    channel_blocks, position_blocks, tiles_per_part, eps,
    CHANNELS_LAST: tl.constexpr, MULTIPLE: tl.constexpr, ACTIVATION: tl.constexpr,
    HAS_R: tl.constexpr, HAS_W: tl.constexpr, HAS_B: tl.constexpr, HAS_STATISTICS: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Merge the partial statistics of a slab, and normalize the tiles of one part.

    Programs go from the end to the beginning: what `partial_statistics` read last is what the
    cache still holds.
    """
    parts = tl.num_programs(1)
    part = parts - 1 - tl.program_id(1)
    sample, slab, slab_channels, num_channels, num_positions = slab_of(
        tl.num_programs(0) - 1 - tl.program_id(0), slabs, slab_groups, group_size, num_channels,
        num_positions, CHANNELS_LAST, MULTIPLE,
    )  # fmt: skip
    shift, mean, rstd = merged_statistics(
        partials, sample, slab, parts, num_samples, num_groups, slab_groups,
        1.0 * group_size * num_positions, eps, BLOCK_G, BLOCK_P,
    )  # fmt: skip
    if HAS_STATISTICS:  # noqa: SIM102  this the compiler knows, the other not
        if part == 0:
            keep_statistics(
                statistics, sample, slab, shift + mean, rstd, num_samples, num_groups,
                slab_groups, BLOCK_G,
            )  # fmt: skip

    first = part * tiles_per_part
    last = tl.minimum(first + tiles_per_part, channel_blocks * position_blocks)
    normalize(
        x, r, weight, bias, y, shift, mean, rstd, sample, slab, first, last, slab_channels,
        group_size, num_channels, num_positions, channel_blocks, position_blocks,
        CHANNELS_LAST, ACTIVATION, HAS_R, HAS_W, HAS_B, BLOCK_C, BLOCK_S, BLOCK_G,
    )  # fmt: skip
