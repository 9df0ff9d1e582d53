"""What the Triton kernels of both directions share: tiles, their addresses, folding into groups.

Letters: N batch, C channels, G groups, D channels per group, S positions. A tensor is read as tiles
of channels x positions, whatever its layout: only the address of an element differs (`places_of`).
A slab is some whole neighbouring groups of one sample, or a single group, whose channels are then
walked in blocks. Values per channel are folded into their groups and spread back by comparing group
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
    "slab_groups",
    "slabs",
    "channel_blocks",
    "position_blocks",
    "tiles_per_part",
    "splits",
    "blocks_per_split",
)


@triton.jit
def divided(size, MULTIPLE: tl.constexpr):
    """`size`, which MULTIPLE divides: so the compiler knows it, and reads that many at a time."""
    return size // MULTIPLE * MULTIPLE


@triton.jit
def wide(size):
    """A size in 64 bits, be it a constant or not."""
    return tl.full([], 1, tl.int64) * size


@triton.jit
def places_of(
    sample, channels, positions, num_channels, num_positions, CHANNELS_LAST: tl.constexpr
):
    """Offsets of a tile [channels, positions] of one sample, in 64 bits."""
    c = channels.to(tl.int64)[:, None]
    s = positions.to(tl.int64)[None, :]
    whole = wide(sample) * num_channels * num_positions
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
def gamma_of(weight, channels, ok, HAS_W: tl.constexpr):
    """gamma of the channels in float32; 1 without a weight."""
    if HAS_W:
        return tl.load(weight + channels, mask=ok, other=1.0).to(tl.float32)
    else:
        return tl.full(channels.shape, 1.0, tl.float32)


@triton.jit
def beta_of(bias, channels, ok, HAS_B: tl.constexpr):
    """beta of the channels in float32; 0 without a bias."""
    if HAS_B:
        return tl.load(bias + channels, mask=ok, other=0.0).to(tl.float32)
    else:
        return tl.full(channels.shape, 0.0, tl.float32)


@triton.jit
def load_written(places, mask):
    """What the programs of an earlier launch have written: not from this one's cache."""
    return tl.load(places, mask=mask, other=0.0, cache_modifier=".cg")


@triton.jit
def with_residual(z, r, places, mask, HAS_R: tl.constexpr):
    """Z plus the residual's tile, where there is a residual."""
    if HAS_R:
        return z + tl.load(r + places, mask=mask, other=0.0).to(tl.float32)
    else:
        return z


@triton.jit
def slab_of(
    program, slabs, slab_groups, group_size, num_channels, num_positions,
    CHANNELS_LAST: tl.constexpr, MULTIPLE: tl.constexpr,
):  # fmt: skip
    """Of a program: sample, slab, and the slab's channels; and the sizes with what divides them."""
    slab_channels = slab_groups * group_size
    if CHANNELS_LAST:
        num_channels = divided(num_channels, MULTIPLE)
        slab_channels = divided(slab_channels, MULTIPLE)
    else:
        num_positions = divided(num_positions, MULTIPLE)
    return program // slabs, program % slabs, slab_channels, num_channels, num_positions


@triton.jit
def groups_of(slab, slab_groups, num_groups, BLOCK_G: tl.constexpr):
    """Groups of a slab, and which of them there are."""
    local = tl.arange(0, BLOCK_G)
    groups = slab * slab_groups + local
    return groups, (local < slab_groups) & (groups < num_groups)


@triton.jit
def groups_of_lanes(slab_channels, group_size, BLOCK_C: tl.constexpr):
    """The group in the slab of each channel of a tile, -1 beyond the slab.

    The same for every tile: there are several blocks of channels only where a slab is one group.
    """
    local = tl.arange(0, BLOCK_C)
    return tl.where(local < slab_channels, local // group_size, -1)


@triton.jit
def tile_at(
    tile, sample, slab, slab_channels, group_size, num_channels, num_positions, channel_blocks,
    position_blocks, CHANNELS_LAST: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """One of the tiles of a slab, numbered along memory in both layouts: see `block_at`."""
    if CHANNELS_LAST:
        block, position_block = tile % channel_blocks, tile // channel_blocks
    else:
        block, position_block = tile // position_blocks, tile % position_blocks
    return block_at(
        block, position_block, sample, slab, slab_channels, group_size, num_channels,
        num_positions, CHANNELS_LAST, BLOCK_C, BLOCK_S,
    )  # fmt: skip


@triton.jit
def block_at(
    block, position_block, sample, slab, slab_channels, group_size, num_channels, num_positions,
    CHANNELS_LAST: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """The tile of a slab at a block of channels and a block of positions.

    Gives its channels, which of them there are, the mask and the addresses of its elements, and
    the number of elements of each group.
    """
    local = block * BLOCK_C + tl.arange(0, BLOCK_C)
    channels = slab * slab_channels + local
    ok = (local < slab_channels) & (channels < num_channels)
    begin = wide(position_block) * BLOCK_S  # there may be more than 2^31
    positions = begin + tl.arange(0, BLOCK_S)
    mask = ok[:, None] & (positions < num_positions)[None, :]
    places = places_of(sample, channels, positions, num_channels, num_positions, CHANNELS_LAST)
    members = tl.minimum(group_size - block * BLOCK_C, BLOCK_C)  # channels of a group
    count = members.to(tl.float32) * tl.minimum(num_positions - begin, BLOCK_S)
    return channels, ok, mask, places, count
