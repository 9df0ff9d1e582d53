"""The Triton kernels of the forward pass.

The resident kernel holds a slab on chip and walks over memory once. For slabs that do not fit, the
first launch leaves the statistics of every part of a slab in memory, the second merges them, always
in the same order, and normalizes. Statistics are taken of centred values, never as E[x^2] - E[x]^2
of raw ones.
"""

from __future__ import annotations

import triton
import triton.language as tl

from groupnorm.ops.triton_activations import activate
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


@triton.jit(do_not_specialize=SIZES)
def resident_forward(
    x, r, weight, bias, y, statistics,
    num_samples, num_channels, num_positions, num_groups, group_size, slab_groups, slabs, eps,
    CHANNELS_LAST: tl.constexpr, MULTIPLE: tl.constexpr, ACTIVATION: tl.constexpr,
    HAS_R: tl.constexpr, HAS_W: tl.constexpr, HAS_B: tl.constexpr, HAS_STATISTICS: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """A slab in one tile. Statistics: mean and rstd, (2, N, G)."""
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

    count = 1.0 * group_size * num_positions
    tile = tl.load(x + places, mask=mask, other=0.0).to(tl.float32)
    mean = fold(tl.sum(tile, 1), group_c, BLOCK_G) / count
    centred = tl.where(mask, tile - spread(mean, group_c, BLOCK_G)[:, None], 0.0)
    rest = fold(tl.sum(centred, 1), group_c, BLOCK_G) / count  # what rounding of the mean left
    centred = tl.where(mask, centred - spread(rest, group_c, BLOCK_G)[:, None], 0.0)
    variance = fold(tl.sum(centred * centred, 1), group_c, BLOCK_G) / count
    rstd = 1.0 / tl.sqrt(variance + eps)

    scale = spread(rstd, group_c, BLOCK_G) * of_channels(weight, channels, ok, HAS_W, 1.0)
    z = centred * scale[:, None] + of_channels(bias, channels, ok, HAS_B, 0.0)[:, None]
    z = with_residual(z, r, places, mask, HAS_R)
    tl.store(y + places, activate(z, ACTIVATION).to(y.dtype.element_ty), mask=mask)
    if HAS_STATISTICS:
        _keep_statistics(
            statistics, sample, slab, mean + rest, rstd, num_samples, num_groups, slab_groups,
            BLOCK_G,
        )  # fmt: skip


@triton.jit
def _keep_statistics(
    statistics, sample, slab, mean, rstd, num_samples, num_groups, slab_groups,
    BLOCK_G: tl.constexpr,
):  # fmt: skip
    local = tl.arange(0, BLOCK_G)
    groups = slab * slab_groups + local
    ok = (local < slab_groups) & (groups < num_groups)
    at = sample.to(tl.int64) * num_groups + groups
    tl.store(statistics + at, mean, mask=ok)
    tl.store(statistics + at + num_samples.to(tl.int64) * num_groups, rstd, mask=ok)


@triton.jit(do_not_specialize=SIZES)
def partial_statistics(
    x, partials,
    num_samples, num_channels, num_positions, num_groups, group_size, slab_groups, slabs,
    channel_blocks, position_blocks, tiles_per_split,
    CHANNELS_LAST: tl.constexpr, MULTIPLE: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """Of the tiles of one split of a slab: a shift, the mean beside it, M2 and the count.

    The shift is the mean of the split's first tile. The sums of (x - shift) and of its square
    can then cancel by no more than the number of tiles of a split. Partials: (4, N, G, splits).
    """
    program, split = tl.program_id(0), tl.program_id(1)
    sample, slab = program // slabs, program % slabs
    slab_channels = slab_groups * group_size
    if CHANNELS_LAST:
        num_channels = divided(num_channels, MULTIPLE)
        slab_channels = divided(slab_channels, MULTIPLE)
    else:
        num_positions = divided(num_positions, MULTIPLE)
    first = split * tiles_per_split
    last = tl.minimum(first + tiles_per_split, channel_blocks * position_blocks)

    shift = tl.zeros([BLOCK_G], tl.float32)
    count = 0.0
    total = tl.zeros([BLOCK_C, BLOCK_S], tl.float32)
    squares = tl.zeros([BLOCK_C, BLOCK_S], tl.float32)
    for tile in range(first, last):
        block, position_block = block_of_tile(tile, channel_blocks, position_blocks, CHANNELS_LAST)
        local = block * BLOCK_C + tl.arange(0, BLOCK_C)
        channels = slab * slab_channels + local
        ok = (local < slab_channels) & (channels < num_channels)
        group_c = tl.where(ok, local // group_size, -1)
        positions = position_block * BLOCK_S + tl.arange(0, BLOCK_S)
        mask = ok[:, None] & (positions < num_positions)[None, :]
        places = places_of(sample, channels, positions, num_channels, num_positions, CHANNELS_LAST)
        values = tl.load(x + places, mask=mask, other=0.0).to(tl.float32)
        wide = tl.minimum(group_size - block * BLOCK_C, BLOCK_C)
        high = tl.minimum(num_positions - position_block * BLOCK_S, BLOCK_S)
        in_tile = wide.to(tl.float32) * high
        if tile == first:
            shift = fold(tl.sum(values, 1), group_c, BLOCK_G) / in_tile
        values = tl.where(mask, values - spread(shift, group_c, BLOCK_G)[:, None], 0.0)
        total += values
        squares += values * values
        count += in_tile

    # A lane belongs to the same group in every tile: several groups only where there is one block.
    local = tl.arange(0, BLOCK_C)
    group_c = tl.where(local < slab_channels, local // group_size, -1)
    total_g = fold(tl.sum(total, 1), group_c, BLOCK_G)
    mean = total_g / count
    m2 = tl.maximum(fold(tl.sum(squares, 1), group_c, BLOCK_G) - total_g * mean, 0.0)
    local_g = tl.arange(0, BLOCK_G)
    groups = slab * slab_groups + local_g
    ok_g = (local_g < slab_groups) & (groups < num_groups)
    splits = tl.num_programs(1)
    at = (sample.to(tl.int64) * num_groups + groups) * splits + split
    size = num_samples.to(tl.int64) * num_groups * splits
    tl.store(partials + at, shift, mask=ok_g)
    tl.store(partials + at + size, mean, mask=ok_g)
    tl.store(partials + at + 2 * size, m2, mask=ok_g)
    tl.store(partials + at + 3 * size, tl.zeros([BLOCK_G], tl.float32) + count, mask=ok_g)


@triton.jit(do_not_specialize=SIZES)
def apply_forward(
    x, r, weight, bias, y, statistics, partials,
    num_samples, num_channels, num_positions, num_groups, group_size, slab_groups, slabs,
    channel_blocks, position_blocks, tiles_per_split, eps,
    CHANNELS_LAST: tl.constexpr, MULTIPLE: tl.constexpr, ACTIVATION: tl.constexpr,
    HAS_R: tl.constexpr, HAS_W: tl.constexpr, HAS_B: tl.constexpr, HAS_STATISTICS: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Merge the partial statistics of a slab, and normalize the tiles of one split.

    Programs go from the end to the beginning: what `partial_statistics` read last is what the
    cache still holds.
    """
    splits = tl.num_programs(1)
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    split = splits - 1 - tl.program_id(1)
    sample, slab = program // slabs, program % slabs
    slab_channels = slab_groups * group_size
    if CHANNELS_LAST:
        num_channels = divided(num_channels, MULTIPLE)
        slab_channels = divided(slab_channels, MULTIPLE)
    else:
        num_positions = divided(num_positions, MULTIPLE)

    local_g = tl.arange(0, BLOCK_G)
    groups = slab * slab_groups + local_g
    ok_g = (local_g < slab_groups) & (groups < num_groups)
    row = (sample.to(tl.int64) * num_groups + groups) * splits
    size = num_samples.to(tl.int64) * num_groups * splits
    each = tl.arange(0, BLOCK_P)
    at = row[:, None] + each[None, :]
    there = ok_g[:, None] & (each < splits)[None, :]
    shift = tl.load(partials + row, mask=ok_g, other=0.0)
    shifts = tl.load(partials + at, mask=there, other=0.0)
    means = tl.load(partials + at + size, mask=there, other=0.0)
    m2s = tl.load(partials + at + 2 * size, mask=there, other=0.0)
    counts = tl.load(partials + at + 3 * size, mask=there, other=0.0)
    count = 1.0 * group_size * num_positions
    beside = tl.where(there, (shifts - shift[:, None]) + means, 0.0)
    mean = tl.sum(counts * beside, 1) / count
    apart = tl.where(there, beside - mean[:, None], 0.0)
    variance = tl.sum(m2s + counts * apart * apart, 1) / count
    rstd = 1.0 / tl.sqrt(variance + eps)
    if HAS_STATISTICS:  # noqa: SIM102  this the compiler knows, the other not
        if split == 0:
            _keep_statistics(
                statistics, sample, slab, shift + mean, rstd, num_samples, num_groups,
                slab_groups, BLOCK_G,
            )  # fmt: skip

    first = split * tiles_per_split
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
        values = tl.load(x + places, mask=mask, other=0.0).to(tl.float32)
        centred = (values - spread(shift, group_c, BLOCK_G)[:, None]) - spread(
            mean, group_c, BLOCK_G
        )[:, None]
        scale = spread(rstd, group_c, BLOCK_G) * of_channels(weight, channels, ok, HAS_W, 1.0)
        z = centred * scale[:, None] + of_channels(bias, channels, ok, HAS_B, 0.0)[:, None]
        z = with_residual(z, r, places, mask, HAS_R)
        tl.store(y + places, activate(z, ACTIVATION).to(y.dtype.element_ty), mask=mask)
