"""Augmentation against a loop over images, and its randomness."""

import pytest
import torch
import torch.nn.functional as F

from groupnorm.data.memory.augment import augment, normalize
from tests.tolerances import STEP

MEAN, STD = torch.tensor([0.2, 0.4, 0.6]), torch.tensor([0.5, 0.25, 0.125])


def images(n=5, height=6, width=7, channels=3):
    generator = torch.Generator().manual_seed(1)
    # no zeros: a zero is padding
    size = (n, channels, height, width)
    return torch.randint(1, 256, size, generator=generator, dtype=torch.uint8)


def seeded(seed=3):
    return torch.Generator().manual_seed(seed)


def candidates(image, pad, flip):
    """Every crop that pad-and-crop with flips can give of one image, uint8 (K, C, H, W)."""
    height, width = image.shape[1:]
    sides = [image, image.flip(-1)] if flip else [image]
    shifts = range(2 * pad + 1)
    return torch.stack(
        [
            F.pad(side, (pad, pad, pad, pad))[:, y : y + height, x : x + width]
            for side in sides
            for y in shifts
            for x in shifts
        ]
    )


def test_normalize_is_the_formula():
    x = images()
    expected = (x.double() / 255 - MEAN.view(3, 1, 1).double()) / STD.view(3, 1, 1).double()
    result = normalize(x, MEAN, STD)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected.float(), rtol=STEP, atol=2 * STEP)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("pad", [0, 1, 3])
def test_every_image_is_one_of_its_crops(pad, flip):
    x = images()
    result = augment(x, pad=pad, flip=flip, mean=MEAN, std=STD, generator=seeded())
    assert result.shape == x.shape
    assert result.is_contiguous()
    for image, got in zip(x, result, strict=True):
        crops = normalize(candidates(image, pad, flip), MEAN, STD)
        assert (crops == got).flatten(1).all(1).sum() == 1


def test_every_crop_occurs_equally_often():
    pad, n = 1, 9000
    x = images(1).expand(n, -1, -1, -1).contiguous()
    result = augment(x, pad=pad, flip=True, mean=MEAN, std=STD, generator=seeded())
    crops = normalize(candidates(x[0], pad, True), MEAN, STD)
    counts = torch.stack([(result == crop).flatten(1).all(1).sum() for crop in crops])
    assert counts.sum() == n
    expected = n / 18
    assert ((counts - expected).abs() < 5 * expected**0.5).all(), counts


def test_draws_come_from_the_generator_alone():
    x, settings = images(), {"pad": 2, "flip": True, "mean": MEAN, "std": STD}
    before = torch.get_rng_state()
    generator = seeded()
    first = augment(x, **settings, generator=generator)
    state = generator.get_state()
    second = augment(x, **settings, generator=generator)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first, second)
    again = torch.Generator()
    again.set_state(state)
    assert torch.equal(augment(x, **settings, generator=again), second)
    assert torch.equal(augment(x, **settings, generator=seeded()), first)


def test_no_padding_and_no_flip_is_normalization():
    x = images(channels=1)
    mean, std = MEAN[:1], STD[:1]
    result = augment(x, pad=0, flip=False, mean=mean, std=std, generator=seeded())
    assert torch.equal(result, normalize(x, mean, std))
