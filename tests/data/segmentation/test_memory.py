"""Batches of label maps: what a step's images depend on, flips, and test images in order."""

import pytest
import torch

from groupnorm.data.batches import Step
from groupnorm.data.memory.batches import TEST_BATCH
from groupnorm.data.segmentation.memory import MapsInMemory
from tests.data.segmentation.tiny_maps import tiny_maps


def pixels_of(images, data):
    """Normalized images back to uint8."""
    mean, std = (values.view(-1, 1, 1) for values in data.moments)
    return ((images * std + mean) * 255).round().to(torch.uint8)


def test_images_follow_the_step_seed_and_the_place():
    batches = MapsInMemory(tiny_maps())
    indices = torch.full((8,), 4)
    (a, maps), (b, _), (c, _) = batches.train(
        [Step(3, indices), Step(3, indices), Step(4, indices)]
    )
    assert (a.shape, a.dtype) == ((8, 3, 16, 16), torch.float32)
    assert (maps.shape, maps.dtype) == ((8, 16, 16), torch.int64)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert not all(torch.equal(a[0], other) for other in a[1:])


def test_an_image_is_flipped_with_its_map():
    data = tiny_maps()
    flips = 0
    for seed in range(4):
        ((images, maps),) = MapsInMemory(data).train([Step(seed, torch.arange(24))])
        for index, (image, found) in enumerate(zip(pixels_of(images, data), maps, strict=True)):
            own = data.train_images[index], data.train_maps[index].long()
            flipped = not torch.equal(image, own[0])
            flips += flipped
            expected = [part.flip(-1) for part in own] if flipped else own
            assert torch.equal(image, expected[0])
            assert torch.equal(found, expected[1])
    assert 30 < flips < 66, "about half of 96"


@pytest.mark.parametrize("shares", [1, 2, 3, 6])
def test_shares_of_a_step_are_the_step(shares):
    batches = MapsInMemory(tiny_maps())
    steps = [Step(seed, torch.randperm(24)[:12]) for seed in range(3)]
    whole = list(batches.train(steps))
    size = 12 // shares
    parts = [list(batches.train(steps, slice(i * size, (i + 1) * size))) for i in range(shares)]
    for step, expected in enumerate(whole):
        for kind in (0, 1):
            assert torch.equal(torch.cat([part[step][kind] for part in parts]), expected[kind])


def test_test_images_are_in_order_and_as_they_are():
    data = tiny_maps()
    ((images, maps),) = MapsInMemory(data).test()
    assert torch.equal(pixels_of(images, data), data.test_images)
    assert torch.equal(maps, data.test_maps.long())


def test_processes_divide_the_test_images():
    batches = MapsInMemory(tiny_maps(test=2 * TEST_BATCH + 5))
    whole = torch.cat([maps for _, maps in batches.test()])
    assert len(whole) == 2 * TEST_BATCH + 5
    parts = [[maps for _, maps in batches.test(first, 2)] for first in range(2)]
    assert [len(part) for part in parts] == [2, 1]
    assert torch.equal(parts[1][0], whole[TEST_BATCH : 2 * TEST_BATCH])


def test_limit():
    assert MapsInMemory(tiny_maps(), 7).train_size == 7
    with pytest.raises(ValueError, match="train_images=25, but shapes has 24"):
        MapsInMemory(tiny_maps(), 25)
    assert MapsInMemory(tiny_maps()).data_issues() == {}
