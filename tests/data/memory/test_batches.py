"""In-memory batches: what a step's images depend on, and test images in order."""

import pytest
import torch

from groupnorm.data import ImageSet, InMemory
from groupnorm.data.batches import Step
from groupnorm.data.memory.batches import TEST_BATCH


def images(n, seed, channels=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, 5, 4), generator=generator, dtype=torch.uint8)


def data(test=10, channels=1):
    return ImageSet(
        name="tiny", version="1", train_images=images(20, 0, channels),
        train_labels=torch.arange(20) % 2, test_images=images(test, 1, channels),
        test_labels=torch.arange(test) % 2, class_names=("a", "b"), flip=True, pad=1,
    )  # fmt: skip


def test_images_follow_the_step_seed_and_the_place():
    batches = InMemory(data(channels=3))
    indices = torch.tensor([4, 4, 7, 1])
    (a, labels), (b, _), (c, _) = batches.train(
        [Step(3, indices), Step(3, indices), Step(4, indices)]
    )
    assert a.shape == (4, 3, 5, 4)
    assert a.dtype == torch.float32
    assert labels.tolist() == [0, 0, 1, 1]
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert not torch.equal(a[0], a[1])


@pytest.mark.parametrize("shares", [1, 2, 3, 6])
def test_shares_of_a_step_are_the_step(shares):
    batches = InMemory(data())
    steps = [Step(seed, torch.randperm(20)[:12]) for seed in range(3)]
    whole = list(batches.train(steps))
    size = 12 // shares
    parts = [list(batches.train(steps, slice(i * size, (i + 1) * size))) for i in range(shares)]
    for step, (expected, labels) in enumerate(whole):
        assert torch.equal(torch.cat([part[step][0] for part in parts]), expected)
        assert torch.equal(torch.cat([part[step][1] for part in parts]), labels)


def test_normalized_with_the_training_images_moments():
    batches = InMemory(data())
    ((seen, labels),) = batches.test()
    back = (seen * data().std.view(-1, 1, 1) + data().mean.view(-1, 1, 1)) * 255
    assert torch.equal(back.round().to(torch.uint8), data().test_images)
    assert torch.equal(labels, data().test_labels)


def test_processes_divide_the_test_images():
    batches = InMemory(data(test=3 * TEST_BATCH + 5))
    whole = torch.cat([x for x, _ in batches.test()])
    assert len(whole) == 3 * TEST_BATCH + 5
    parts = [[x for x, _ in batches.test(first, 3)] for first in range(3)]
    assert [len(part) for part in parts] == [2, 1, 1]
    assert torch.equal(parts[2][0], whole[2 * TEST_BATCH : 3 * TEST_BATCH])
    assert torch.equal(parts[0][1], whole[3 * TEST_BATCH :])


def test_limit():
    assert InMemory(data(), 7).train_size == 7
    with pytest.raises(ValueError, match="train_images=21, but tiny has 20"):
        InMemory(data(), 21)
    assert InMemory(data()).data_issues() == {}
