"""The Triton kernels that follow each slab's first walk with its second, in one launch.

Where slabs are large and few, the split kernels walk over the whole tensor twice, and the second
walk finds in the cache only what fits. Here the programs that normalize a slab come right after
those that take its statistics, while the next slab is walked over first, so that only a few slabs
need fit. Programs draw numbers in the order in which they start and wait only for lower numbers:
whatever runs at a time, the lowest number that is not done need not wait, and all come to an end.
Nothing is added atomically but those counters.
"""

from __future__ import annotations

import triton
import triton.language as tl

from groupnorm.ops.group_norm.triton.kernels.backward import (
    keep_sums,
    known_of_channels,
    merged_sums,
    sums_of,
    write_tiles,
)
from groupnorm.ops.group_norm.triton.kernels.forward import (
    keep_partials,
    keep_statistics,
    merged_statistics,
    normalize,
    statistics_of,
)
from groupnorm.ops.group_norm.triton.kernels.tiles import SIZES, slab_of


@triton.jit
def turn_of(number, first_parts, second_parts, slabs):
    """What a program does: whether of the first walk, over which slab of `slabs`, which part.

    In turns: the first walk over slab 0; over slab 1, and the second over slab 0; over slab 2, and
    the second over slab 1; ...
    """
    number = number - first_parts
    both = first_parts + second_parts
    turn = tl.maximum(number, 0) // both
    part = number - turn * both
    begins = number < 0
    first = begins | ((part < first_parts) & (turn < slabs - 1))
    slab = tl.where(begins, 0, tl.where(first, turn + 1, turn))
    part = tl.where(begins, number + first_parts, part)
    return first, slab, tl.where(first | (turn == slabs - 1), part, part - first_parts)


@triton.jit
def announce(done):
    """What this program has written is written; one more is done."""
    tl.debug_barrier()
    tl.atomic_add(done, 1, sem="release")


@triton.jit
def await_all(done, number):
    """Until so many programs are done; then what they have written can be read."""
    seen = tl.atomic_add(done, 0, sem="acquire")
    while seen < number:
        seen = tl.atomic_add(done, 0, sem="acquire")
    tl.debug_barrier()


@triton.jit(do_not_specialize=SIZES)
def streamed_forward(
    x, r, weight, bias, y, statistics, partials, counters,
    num_samples, num_channels, num_positions, num_groups, group_size, slab_groups, slabs,
    channel_blocks, position_blocks, tiles_per_split, splits, eps,
    CHANNELS_LAST: tl.constexpr, MULTIPLE: tl.constexpr, ACTIVATION: tl.constexpr,
    HAS_R: tl.constexpr, HAS_W: tl.constexpr, HAS_B: tl.constexpr, HAS_STATISTICS: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """`partial_statistics` and `apply_forward`. Counters: of programs, and of splits of slabs."""
    first, program, split = turn_of(tl.atomic_add(counters, 1), splits, splits, num_samples * slabs)
    sample, slab, slab_channels, num_channels, num_positions = slab_of(
        program, slabs, slab_groups, group_size, num_channels, num_positions,
        CHANNELS_LAST, MULTIPLE,
    )  # fmt: skip
    tile = split * tiles_per_split
    end = tl.minimum(tile + tiles_per_split, channel_blocks * position_blocks)
    if first:
        shift, mean, m2, count = statistics_of(
            x, sample, slab, tile, end, slab_channels, group_size, num_channels, num_positions,
            channel_blocks, position_blocks, CHANNELS_LAST, BLOCK_C, BLOCK_S, BLOCK_G,
        )  # fmt: skip
        keep_partials(
            partials, sample, slab, split, splits, shift, mean, m2, count, num_samples,
            num_groups, slab_groups, BLOCK_G,
        )  # fmt: skip
        announce(counters + 1 + program)
    else:
        await_all(counters + 1 + program, splits)
        shift, mean, rstd = merged_statistics(
            partials, sample, slab, splits, num_samples, num_groups, slab_groups,
            1.0 * group_size * num_positions, eps, BLOCK_G, BLOCK_P,
        )  # fmt: skip
        if HAS_STATISTICS:  # noqa: SIM102  this the compiler knows, the other not
            if split == 0:
                keep_statistics(
                    statistics, sample, slab, shift + mean, rstd, num_samples, num_groups,
                    slab_groups, BLOCK_G,
                )  # fmt: skip
        normalize(
            x, r, weight, bias, y, shift, mean, rstd, sample, slab, tile, end, slab_channels,
            group_size, num_channels, num_positions, channel_blocks, position_blocks,
            CHANNELS_LAST, ACTIVATION, HAS_R, HAS_W, HAS_B, BLOCK_C, BLOCK_S, BLOCK_G,
        )  # fmt: skip


@triton.jit(do_not_specialize=SIZES)
def streamed_backward(
    x, dy, r, weight, bias, statistics, dx, dr, sums, counters,
    num_samples, num_channels, num_positions, num_groups, group_size, slab_groups, slabs,
    channel_blocks, position_blocks, blocks_per_split, splits, tiles_per_part, parts,
    CHANNELS_LAST: tl.constexpr, MULTIPLE: tl.constexpr, ACTIVATION: tl.constexpr,
    HAS_R: tl.constexpr, HAS_W: tl.constexpr, HAS_B: tl.constexpr, NEEDS_R: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """`partial_sums`, of slabs, and `apply_backward`. Sums: (2, splits, N, C)."""
    first, program, part = turn_of(
        tl.atomic_add(counters, 1), channel_blocks * splits, parts, num_samples * slabs
    )
    sample, slab, slab_channels, num_channels, num_positions = slab_of(
        program, slabs, slab_groups, group_size, num_channels, num_positions,
        CHANNELS_LAST, MULTIPLE,
    )  # fmt: skip
    if first:
        block, split = part % channel_blocks, part // channel_blocks
        local = block * BLOCK_C + tl.arange(0, BLOCK_C)
        channels = slab * slab_channels + local
        ok = (local < slab_channels) & (channels < num_channels)
        weight_c, bias_c, mean_c, rstd_c = known_of_channels(
            weight, bias, statistics, sample, channels, ok, num_samples, num_groups, group_size,
            HAS_W, HAS_B,
        )  # fmt: skip
        begin = split * blocks_per_split
        dbias, dweight = sums_of(
            x, dy, r, weight_c, bias_c, mean_c, rstd_c, sample, slab, block,
            begin, tl.minimum(begin + blocks_per_split, position_blocks),
            slab_channels, num_channels, num_positions, group_size,
            CHANNELS_LAST, ACTIVATION, HAS_R, BLOCK_C, BLOCK_S,
        )  # fmt: skip
        keep_sums(
            sums, split * num_samples + sample, channels, ok, dbias, dweight,
            splits * num_samples, num_channels,
        )  # fmt: skip
        announce(counters + 1 + program)
    else:
        await_all(counters + 1 + program, channel_blocks * splits)
        of_a, of_ax = merged_sums(
            sums, weight, sample, slab, splits, slab_channels, num_samples, num_channels,
            group_size, channel_blocks, HAS_W, BLOCK_C, BLOCK_G, BLOCK_P,
        )  # fmt: skip
        count = 1.0 * group_size * num_positions
        begin = part * tiles_per_part
        write_tiles(
            x, dy, r, weight, bias, statistics, dx, dr, of_a / count, of_ax / count, sample, slab,
            begin, tl.minimum(begin + tiles_per_part, channel_blocks * position_blocks),
            slab_channels, num_samples, num_channels, num_positions, num_groups, group_size,
            channel_blocks, position_blocks,
            CHANNELS_LAST, ACTIVATION, HAS_R, HAS_W, HAS_B, NEEDS_R, BLOCK_C, BLOCK_S, BLOCK_G,
        )  # fmt: skip
