"""In which order the programs of one launch walk: everything once, and nothing awaited for ever."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ops.group_norm.runners import DEVICE, GPU, TRITON, running

triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402

from groupnorm.ops.group_norm.triton.kernels.streamed import turn_of  # noqa: E402

pytestmark = [pytest.mark.skipif(not TRITON, reason="Triton is not installed"), *GPU]


@triton.jit
def turns(result, first_parts, second_parts, slabs):
    """Row `number` of the result: first or second walk, slab, part."""
    number = tl.program_id(0)
    first, slab, part = turn_of(number, first_parts, second_parts, slabs)
    tl.store(result + number * 3, first.to(tl.int32))
    tl.store(result + number * 3 + 1, slab)
    tl.store(result + number * 3 + 2, part)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5))
def test_every_part_once_and_after_what_it_awaits(first_parts, second_parts, slabs):
    programs = slabs * (first_parts + second_parts)
    result = torch.full((programs, 3), -1, dtype=torch.int32, device=DEVICE)
    with running("triton/streamed"):
        turns[(programs,)](result, first_parts, second_parts, slabs)
    order = [tuple(row) for row in result.tolist()]
    parts = {1: first_parts, 0: second_parts}
    assert set(order) == {
        (walk, slab, part)
        for walk in (0, 1)
        for slab in range(slabs)
        for part in range(parts[walk])
    }
    for number, (walk, slab, _) in enumerate(order):
        if walk == 0:
            awaited = {(1, slab, part) for part in range(first_parts)}
            assert awaited <= set(order[:number])
    # Not more than one slab ahead: that one and the one before must fit into the cache.
    for number, (walk, slab, _) in enumerate(order):
        if walk == 1 and slab >= 2:
            done = {(0, slab - 2, part) for part in range(second_parts)}
            assert done <= set(order[:number])
