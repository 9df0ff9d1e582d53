"""How the Triton kernels cut a tensor: everything is covered once, and nothing is too large."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupnorm.ops.group_norm.triton.plan import (
    LIMITS,
    multiple_of,
    plan_of,
    power_of_two,
    split,
    tiling,
)

TINY = replace(
    LIMITS,
    resident_forward=0,
    resident_backward=0,
    block=256,
    row=64,
    row_bytes=16,
    row_channels=32,
)

# (channels, groups, positions), layout: resident, groups of a tile, channels x positions of a block
TILINGS = {
    "a small group in one block with others": ((64, 32, 49), False, (True, 8, 16, 64)),
    "a group alone in one block": ((256, 32, 784), False, (True, 1, 8, 1024)),
    "a group too large for one block": ((320, 32, 4096), False, (False, 1, 4, 1024)),
    "a group of one channel": ((512, 512, 47999), False, (False, 1, 1, 4096)),
    "few positions, many channels": ((2048, 1, 49), False, (False, 1, 64, 64)),
    "rank 2": ((512, 32, 1), False, (True, 32, 512, 1)),
    "neighbouring groups make a row of 64 bytes": ((320, 32, 64), True, (True, 4, 64, 64)),
    "one channel a group": ((64, 64, 196), True, (True, 32, 32, 256)),
    "rows of 40 channels": ((320, 32, 4096), True, (False, 4, 64, 64)),
    "rows of 60 channels, 4 at a time": ((60, 2, 4096), True, (False, 2, 64, 64)),
    "a group wider than a block": ((2048, 8, 784), True, (False, 1, 64, 64)),
}


@pytest.mark.parametrize("case", TILINGS)
def test_what_is_cut_how(case):
    (channels, groups, positions), channels_last, expected = TILINGS[case]
    cut = tiling(channels, groups, positions, 2, channels_last, LIMITS.resident_forward, LIMITS)
    assert (cut.resident, cut.tile_groups, cut.block_c, cut.block_s) == expected


sizes = st.integers(1, 600)


@given(
    sizes, st.integers(1, 80), st.integers(1, 100_000), st.sampled_from([2, 4]), st.booleans(),
    st.sampled_from([LIMITS, TINY]),
)  # fmt: skip
def test_blocks_cover_everything(
    group_size, groups, positions, element_size, channels_last, limits
):
    channels = group_size * groups
    cut = tiling(
        channels, groups, positions, element_size, channels_last, limits.resident_forward, limits
    )
    assert cut.tile_groups * cut.tiles >= groups > cut.tile_groups * (cut.tiles - 1)
    tile = cut.tile_groups * group_size
    assert cut.block_c * cut.channel_blocks >= tile > cut.block_c * (cut.channel_blocks - 1)
    assert cut.block_s * cut.position_blocks >= positions > cut.block_s * (cut.position_blocks - 1)
    assert cut.block_g >= cut.tile_groups
    for block in (cut.block_c, cut.block_s, cut.block_g):
        assert block == power_of_two(block)
    # Lanes of a block belong to the same group in all blocks: several groups only in one block.
    assert cut.channel_blocks == 1 or cut.tile_groups == 1
    if cut.resident:
        assert cut.blocks == 1
        assert cut.block_c * cut.block_s <= max(limits.resident_forward, limits.together)
    else:
        assert cut.block_c * cut.block_s <= max(limits.block, cut.block_c)
        assert cut.block_c <= max(2 * limits.row_channels, limits.block)
    if channels_last:  # two sectors of memory, where there are as many channels
        assert min(tile, channels) * element_size >= min(limits.row_bytes, channels * element_size)
    assert cut.warps in (1, 2, 4, 8, 16)


@given(
    st.integers(1, 100_000), st.integers(1, 10_000), st.none() | st.integers(1, 4096),
    st.integers(1, 132),
)  # fmt: skip
def test_no_split_is_empty(blocks, others, most, processors):
    splits, each = split(blocks, others, processors, LIMITS, most)
    assert splits * each >= blocks > (splits - 1) * each
    assert most is None or splits <= most
    enough = -(-blocks // LIMITS.blocks_per_split)
    assert each <= LIMITS.blocks_per_split or (most is not None and most < enough)


def test_splits_fill_the_processors():
    assert split(1000, 2, 132, LIMITS) == (250, 4)
    assert split(1000, 10_000, 132, LIMITS) == (16, 63)
    assert split(1, 2, 132, LIMITS) == (1, 1)


# (N, C, S), groups, bytes of an element, channels_last: paths forward and backward on an H200
PLANS = {
    "CIFAR ResNet": (((32, 64, 64), 8, 4, True), ("resident", "resident")),
    "as much as a block": (((128, 128, 1024), 32, 4, True), ("resident", "split")),
    "many samples": (((32, 256, 3136), 32, 2, False), ("looped", "looped")),
    "few large groups": (((1, 128, 1310720), 32, 2, False), ("split", "split")),
    "few large groups, channels_last": (((1, 128, 1310720), 32, 2, True), ("split", "split")),
}


@pytest.mark.parametrize("case", PLANS)
def test_the_path_of_a_shape_on_a_large_gpu(case):
    shape, paths = PLANS[case]
    for backward in (False, True):
        found = plan_of(*shape, 132, backward=backward)
        assert found.path == paths[backward]


@given(
    st.integers(1, 9), sizes, st.integers(1, 80), st.integers(1, 100_000), st.booleans(),
    st.booleans(),
)  # fmt: skip
def test_a_plan_covers_every_block(n, group_size, groups, positions, channels_last, backward):
    shape = (n, group_size * groups, positions)
    plan = plan_of(shape, groups, 2, channels_last, 132, backward=backward)
    cut = plan.cut
    assert plan.path in ("resident", "looped", "split")
    assert (plan.path == "resident") == cut.resident
    if plan.path in ("resident", "looped"):
        assert (plan.parts, plan.splits) == (1, 1)
        return
    assert plan.parts * plan.blocks_per_part >= cut.blocks > (plan.parts - 1) * plan.blocks_per_part
    blocks, each = cut.position_blocks, plan.position_blocks_per_split
    assert plan.splits * each >= blocks > (plan.splits - 1) * each
    if not backward:
        assert power_of_two(plan.parts) * cut.block_g <= max(LIMITS.partials, cut.block_g)


def test_powers():
    assert [power_of_two(n) for n in (1, 2, 3, 64, 65)] == [1, 2, 4, 64, 128]
    assert [multiple_of(n, 2) for n in (1, 12, 40, 64)] == [1, 4, 8, 8]
    assert [multiple_of(n, 4) for n in (6, 64)] == [2, 4]
