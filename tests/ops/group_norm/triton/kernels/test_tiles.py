"""Addresses of blocks: sizes beyond 32 bits, which no test could fill."""

import pytest
import torch

from tests.ops.group_norm.runners import DEVICE, GPU, TRITON, running

triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402

from groupnorm.ops.group_norm.triton.kernels.tiles import numbered_block  # noqa: E402

pytestmark = [pytest.mark.skipif(not TRITON, reason="Triton is not installed"), *GPU]


@triton.jit
def look(result, counts, block, sample, num_channels, num_positions, LAST: tl.constexpr):
    """Addresses and mask of a block of 2 channels x 4 positions, of groups of 3 channels."""
    blocks = (num_positions + 3) // 4
    _, _, mask, offs, count = numbered_block(
        block, sample, 1, 3, 3, num_channels, num_positions, 2, blocks, LAST, 2, 4
    )
    o_result = tl.arange(0, 2)[:, None] * 4 + tl.arange(0, 4)[None, :]
    tl.store(result + o_result, tl.where(mask, offs, -1))
    tl.store(counts, count)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("sample", [0, 5])
@pytest.mark.parametrize("positions", [7, 2**31 + 3, 2**40 + 2])
def test_addresses(positions, sample, channels_last):
    """Of the last block of the second group of 6 channels: its last channel, the last positions."""
    blocks = -(-positions // 4)
    result = torch.full((2, 4), -2, dtype=torch.int64, device=DEVICE)
    counts = torch.zeros(1, device=DEVICE)
    with running("triton/as it is"):
        look[(1,)](result, counts, 2 * blocks - 1, sample, 6, positions, channels_last)
    rest = positions - 4 * (blocks - 1)
    expected = torch.full((2, 4), -1)
    for i in range(rest):
        s, c = positions - rest + i, 5
        inside = s * 6 + c if channels_last else c * positions + s
        expected[0, i] = sample * 6 * positions + inside
    assert torch.equal(result.cpu(), expected)
    assert counts.item() == rest
