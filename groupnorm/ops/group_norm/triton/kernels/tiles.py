"""What the Triton kernels of both directions share: blocks, their addresses, folding into groups.

Letters: N batch, C channels, G groups, D channels per group, S positions. A tensor is read in
blocks of channels x positions, whatever its layout: only an element's offset differs.
A tile is some whole neighbouring groups of one sample, or a single group, whose channels then take
several blocks. Names: p_ pointers, offs offsets from a pointer, o_ indices along one axis, mask and
c_mask what there is of a block and of its channels; _c a value for each channel, _g for each group.

Values per channel are folded into their groups and spread back by comparing group
numbers, so that no number of channels per group is special.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Sizes that are the same kernel whatever they are; `divided` tells whether addresses align.
SIZES = (
    "num_samples",
    "num_channels",
    "num_positions",
    "num_groups",
    "group_size",
    "tile_groups",
    "tiles",
    "channel_blocks",
    "position_blocks",
    "blocks_per_part",
    "splits",
    "position_blocks_per_split",
)


@triton.jit
def divided(size, MULTIPLE: tl.constexpr):
    """`size`, which MULTIPLE divides: so the compiler knows it, and reads that many at a time."""
    return size // MULTIPLE * MULTIPLE


@triton.jit
def to_int64(size):
    """A size in 64 bits, be it a constant or not."""
    return tl.full([], 1, tl.int64) * size


@triton.jit
def offsets_of(
    sample, channels, positions, num_channels, num_positions, CHANNELS_LAST: tl.constexpr
):
    """Offsets of a block [channels, positions] of one sample, in 64 bits."""
    c = channels.to(tl.int64)[:, None]
    s = positions.to(tl.int64)[None, :]
    whole = to_int64(sample) * num_channels * num_positions
    if CHANNELS_LAST:
        return whole + (s * num_channels + c)
    else:
        return whole + (c * num_positions + s)


@triton.jit
def fold(values_c, group_c, BLOCK_G: tl.constexpr):
    """Sums over the channels of each group: [channels] -> [groups]; group -1 is none."""
    member = group_c[:, None] == tl.arange(0, BLOCK_G)[None, :]
    return tl.sum(tl.where(member, values_c[:, None], 0.0), 0)


@triton.jit
def spread(values_g, group_c, BLOCK_G: tl.constexpr):
    """The value of each channel's group: [groups] -> [channels]."""
    member = group_c[:, None] == tl.arange(0, BLOCK_G)[None, :]
    return tl.sum(tl.where(member, values_g[None, :], 0.0), 1)


@triton.jit
def gamma_of(p_weight, channels, c_mask, HAS_W: tl.constexpr):
    """gamma of the channels in float32; 1 without a weight."""
    if HAS_W:
        return tl.load(p_weight + channels, mask=c_mask, other=1.0).to(tl.float32)
    else:
        return tl.full(channels.shape, 1.0, tl.float32)


@triton.jit
def beta_of(p_bias, channels, c_mask, HAS_B: tl.constexpr):
    """beta of the channels in float32; 0 without a bias."""
    if HAS_B:
        return tl.load(p_bias + channels, mask=c_mask, other=0.0).to(tl.float32)
    else:
        return tl.full(channels.shape, 0.0, tl.float32)


@triton.jit
def load_written(ptrs, mask):
    """What the programs of an earlier launch have written: not from this one's cache."""
    return tl.load(ptrs, mask=mask, other=0.0, cache_modifier=".cg")


@triton.jit
def with_residual(z, p_r, offs, mask, HAS_R: tl.constexpr):
    """Z plus the residual's block, where there is a residual."""
    if HAS_R:
        return z + tl.load(p_r + offs, mask=mask, other=0.0).to(tl.float32)
    else:
        return z


@triton.jit
def tile_of(
    program, tiles, tile_groups, group_size, num_channels, num_positions,
    CHANNELS_LAST: tl.constexpr, MULTIPLE: tl.constexpr,
):  # fmt: skip
    """Of a program: sample, tile, and the tile's channels; and the sizes with what divides them."""
    tile_channels = tile_groups * group_size
    if CHANNELS_LAST:
        num_channels = divided(num_channels, MULTIPLE)
        tile_channels = divided(tile_channels, MULTIPLE)
    else:
        num_positions = divided(num_positions, MULTIPLE)
    return program // tiles, program % tiles, tile_channels, num_channels, num_positions


@triton.jit
def groups_of(tile, tile_groups, num_groups, BLOCK_G: tl.constexpr):
    """Groups of a tile, and which of them there are."""
    local = tl.arange(0, BLOCK_G)
    groups = tile * tile_groups + local
    return groups, (local < tile_groups) & (groups < num_groups)


@triton.jit
def groups_of_lanes(tile_channels, group_size, BLOCK_C: tl.constexpr):
    """The group in the tile of each channel of a block, -1 beyond the tile.

    The same for every block: there are several blocks of channels only where a tile is one group.
    """
    local = tl.arange(0, BLOCK_C)
    return tl.where(local < tile_channels, local // group_size, -1)


@triton.jit
def numbered_block(
    number, sample, tile, tile_channels, group_size, num_channels, num_positions, channel_blocks,
    position_blocks, CHANNELS_LAST: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """One of the blocks of a tile, numbered along memory in both layouts: see `block_at`."""
    if CHANNELS_LAST:
        channel_block, position_block = number % channel_blocks, number // channel_blocks
    else:
        channel_block, position_block = number // position_blocks, number % position_blocks
    return block_at(
        channel_block, position_block, sample, tile, tile_channels, group_size, num_channels,
        num_positions, CHANNELS_LAST, BLOCK_C, BLOCK_S,
    )  # fmt: skip


@triton.jit
def block_at(
    channel_block, position_block, sample, tile, tile_channels, group_size, num_channels,
    num_positions,
    CHANNELS_LAST: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """The block of a tile at some channels and some positions, by the numbers of both.

    Gives its channels, which of them there are, the mask and the addresses of its elements, and
    the number of elements of each group.
    """
    local = channel_block * BLOCK_C + tl.arange(0, BLOCK_C)
    channels = tile * tile_channels + local
    c_mask = (local < tile_channels) & (channels < num_channels)
    begin = to_int64(position_block) * BLOCK_S  # there may be more than 2^31
    positions = begin + tl.arange(0, BLOCK_S)
    mask = c_mask[:, None] & (positions < num_positions)[None, :]
    offs = offsets_of(sample, channels, positions, num_channels, num_positions, CHANNELS_LAST)
    members = tl.minimum(group_size - channel_block * BLOCK_C, BLOCK_C)  # channels of a group
    count = members.to(tl.float32) * tl.minimum(num_positions - begin, BLOCK_S)
    return channels, c_mask, mask, offs, count
