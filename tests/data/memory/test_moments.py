"""Mean and standard deviation of pixels."""

import torch

from groupnorm.data.memory.moments import pixel_moments


def test_they_are_those_of_each_channel_whatever_axis_it_is():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (5, 3, 4, 6), generator=generator, dtype=torch.uint8)
    values = pixels.double() / 255
    mean, std = pixel_moments(pixels, 1)
    torch.testing.assert_close(mean, values.mean((0, 2, 3)).float())
    torch.testing.assert_close(std, values.std((0, 2, 3), correction=0).float())
    last = pixel_moments(pixels.movedim(1, 3), 3)
    assert torch.equal(mean, last[0])
    assert torch.equal(std, last[1])
