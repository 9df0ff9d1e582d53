"""Steps of an epoch: every example once, the same for a seed, whole steps only."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from groupnorm.data.batches import epoch_order, epoch_steps, generator_of, seed_of, shrink


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 3), st.integers(1, 5))
def test_steps_are_a_permutation_without_its_incomplete_end(size, step_images, seed, epoch):
    order = epoch_order(size, seed, epoch)
    assert order.dtype == torch.int64
    assert sorted(order.tolist()) == list(range(size))
    steps = epoch_steps(order, step_images, seed, epoch)
    assert len(steps) == size // step_images
    assert all(len(step.indices) == step_images for step in steps)
    joined = [int(i) for step in steps for i in step.indices]
    assert joined == order.tolist()[: len(joined)]


def test_seed_and_epoch_decide_order_and_draws():
    assert torch.equal(epoch_order(50, 1, 2), epoch_order(50, 1, 2))
    others = [epoch_order(50, 1, 3), epoch_order(50, 2, 2)]
    assert not any(torch.equal(epoch_order(50, 1, 2), other) for other in others)
    order = epoch_order(50, 0, 1)
    seeds = [step.seed for epoch in (1, 2) for seed in (0, 1)
             for step in epoch_steps(order, 10, seed, epoch)]  # fmt: skip
    assert len(set(seeds)) == 20


def test_seeds_are_what_a_generator_takes():
    seeds = [seed_of(0, "x", number) for number in range(200)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert len({seed % 2**32 for seed in seeds}) == 200
    assert seed_of(1, 23) != seed_of(12, 3)
    assert seed_of(0, "worker", 1) == 6_623_157_225_898_736_261, "a resumed run draws anew"
    first, again = (torch.rand(3, generator=generator_of(5, "a")) for _ in range(2))
    assert torch.equal(first, again)


def test_images_are_made_smaller_alone_and_alike():
    images = torch.rand(6, 3, 12, 12)
    small = shrink(images, 4)
    assert small.shape == (6, 3, 4, 4)
    assert torch.equal(shrink(images[2:5], 4), small[2:5])  # the share of one process
    stripes = torch.zeros(1, 1, 12, 12)
    stripes[..., 1::3] = 1
    assert shrink(stripes, 4).max() < 0.5  # smoothed: taken alone, these columns would be white
    for size in (None, 12, 20):
        assert shrink(images, size) is images
