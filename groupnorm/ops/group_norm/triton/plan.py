"""How the Triton kernels cut a tensor: which path, and the sizes of its blocks.

Letters: N batch, C channels, G groups, D channels per group, S positions. Blocks are powers of two.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Sizes that decide, in elements unless said otherwise. Chosen by reasoning, not tuned.

    Attributes:
        resident_forward: a tile of at most so many elements stays on chip in the forward pass.
        resident_backward: the same in the backward pass, which holds x and dy.
        together: small groups are put together in tiles of up to so many.
        block: of the kernels that take a tile in several blocks.
        row: row of a block along contiguous positions, at least, where there are as many.
        row_bytes: shortest row along the channels of channels_last: two sectors of memory.
        row_channels: longest row along the channels of channels_last.
        partials: most partial results that one program merges; more are added up before.
        blocks_per_split: from here on a tile is split further, which bounds the rounding errors of
            a split's sums, even where that makes more programs than run at a time.
        programs_per_processor: how many programs a tile's splitting aims at.
    """

    resident_forward: int = 16384
    resident_backward: int = 8192
    together: int = 1024
    block: int = 4096
    row: int = 1024
    row_bytes: int = 64
    row_channels: int = 64
    partials: int = 4096
    blocks_per_split: int = 64
    programs_per_processor: int = 4


LIMITS = Limits()


@dataclass(frozen=True)
class Tiling:
    """How the tiles of a tensor are cut.

    Attributes:
        resident: one block holds a tile.
        tile_groups: groups of a tile (the last tile of a sample may have fewer).
        group_size: channels of a group.
        tiles: of a sample.
        block_c: channels of a block; `block_s` its positions; `block_g` at least `tile_groups`.
        channel_blocks: blocks along the channels of a tile; more than one only for a single group.
        position_blocks: blocks along the positions.
    """

    resident: bool
    tile_groups: int
    group_size: int
    tiles: int
    block_c: int
    block_s: int
    block_g: int
    channel_blocks: int
    position_blocks: int

    @property
    def blocks(self) -> int:
        """Blocks of a tile."""
        return self.channel_blocks * self.position_blocks

    @property
    def warps(self) -> int:
        """Of 32 threads; 16 elements of a block for each thread, or 32 of the largest blocks."""
        return min(max(power_of_two(self.block_c * self.block_s) // 512, 1), 16)


def tiling(
    num_channels: int,
    num_groups: int,
    num_positions: int,
    element_size: int,
    channels_last: bool,
    resident: int,
    limits: Limits,
) -> Tiling:
    """Cut a tensor (N, C, S) whose sizes are at least 1.

    Args:
        element_size: bytes of an element.
        resident: the tile of at most so many elements that stays on chip.
        limits: the other sizes.
    """
    size = num_channels // num_groups
    least = 1
    if channels_last:
        least = min(-(-limits.row_bytes // (element_size * size)), num_groups)
    block_s = power_of_two(num_positions)
    is_resident = power_of_two(least * size) * block_s <= resident
    if is_resident:
        tile_groups = max(least, limits.together // block_s // size)
    elif channels_last:
        tile_groups = max(least, limits.row_channels // size)
    else:
        tile_groups = 1
    tile_groups = min(tile_groups, num_groups)
    if channels_last:  # a few groups fewer, where then more channels at a time can be read
        tile_groups = max(
            range(max(least, tile_groups // 2), tile_groups + 1),
            key=lambda groups: (multiple_of(groups * size, element_size), groups),
        )

    block_c = power_of_two(tile_groups * size)
    if not is_resident and channels_last:
        if tile_groups == 1:
            block_c = min(block_c, limits.row_channels)
        block_s = min(block_s, max(limits.block // block_c, 1))
    elif not is_resident:
        block_s = min(block_s, max(limits.block // block_c, limits.row))
        block_c = min(block_c, max(limits.block // block_s, 1))
    return Tiling(
        is_resident,
        tile_groups,
        size,
        -(-num_groups // tile_groups),
        block_c,
        block_s,
        power_of_two(tile_groups),
        -(-tile_groups * size // block_c),
        -(-num_positions // block_s),
    )


def split(
    blocks: int, others: int, processors: int, limits: Limits, most: int | None = None
) -> tuple[int, int]:
    """Splits of `blocks` neighbouring blocks, and blocks of a split; none is empty.

    Args:
        others: programs that there are for each split.
        most: the number of splits that must not be exceeded.
    """
    wanted = -(-processors * limits.programs_per_processor // others)
    wanted = max(wanted, -(-blocks // limits.blocks_per_split))
    wanted = wanted if most is None else min(wanted, most)
    each = -(-blocks // max(min(wanted, blocks), 1))
    return -(-blocks // each), each


@dataclass(frozen=True)
class Plan:
    """How a forward or a backward pass goes over a tensor.

    Attributes:
        path: "resident", "looped" or "split" (docs/gpu.md).
        cut: the blocks.
        parts: of the blocks of a tile, each for one program; `blocks_per_part` blocks in a part.
        splits: of the blocks of positions, where a backward pass takes its sums; each has
            `position_blocks_per_split` of them.
    """

    path: str
    cut: Tiling
    parts: int = 1
    blocks_per_part: int = 1
    splits: int = 1
    position_blocks_per_split: int = 1


def plan_of(
    shape: tuple[int, int, int],
    num_groups: int,
    element_size: int,
    channels_last: bool,
    processors: int,
    *,
    backward: bool,
) -> Plan:
    """The path of a forward or backward pass over (N, C, S), and how many programs share a tile.

    Args:
        element_size: bytes of an element.
        processors: of the GPU.
    """
    n, channels, positions = shape
    limits = LIMITS
    on_chip = limits.resident_backward if backward else limits.resident_forward
    cut = tiling(channels, num_groups, positions, element_size, channels_last, on_chip, limits)
    if cut.resident:
        return Plan("resident", cut)
    most = None if backward else limits.partials // cut.block_g
    parts, each = split(cut.blocks, n * cut.tiles, processors, limits, most)
    if parts == 1:
        return Plan("looped", cut)
    blocks = n * -(-channels // cut.block_c)
    return Plan("split", cut, parts, each, *split(cut.position_blocks, blocks, processors, limits))


def power_of_two(number: int) -> int:
    """The smallest power of two that is at least `number`."""
    return 1 << max(number - 1, 0).bit_length()


def multiple_of(number: int, element_size: int) -> int:
    """The largest power of two that divides `number` and makes at most 16 bytes of elements."""
    return min(number & -number, 16 // element_size)
