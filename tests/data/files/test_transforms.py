"""The paper's augmentation: what each part does, and where its draws come from."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from groupnorm.data.files import transforms as ours
from groupnorm.data.files.transforms import draws_of
from tests.data.files.image_trees import photo
from tests.tolerances import (
    FOUR_DIGITS,
    LAYER,
    SAMPLED_COVARIANCE,
    SAMPLED_LOG_ASPECT,
    SAMPLED_MEAN,
)

MEAN, STD = (torch.tensor(v).view(3, 1, 1) for v in (ours.MEAN, ours.STD))


def augmented(image, seed=0, place=0, size=24):
    with draws_of(seed, place):
        return ours.train_transform(size)(image)


def plain(colour, size=(64, 48)):
    return Image.new("RGB", size, colour)


def test_shape_and_type():
    for made in (augmented(photo()), ours.evaluation_transform(24)(photo())):
        assert (made.shape, made.dtype, type(made)) == ((3, 24, 24), torch.float32, torch.Tensor)


def test_draws_follow_from_seed_and_place_alone():
    images = {
        key: augmented(photo(), *key)
        for key in [(0, 0), (0, 1), (1, 0), (2**32, 0), (2**63 - 1, 5)]
    }
    torch.manual_seed(99)
    for key, image in images.items():
        assert torch.equal(augmented(photo(), *key), image)
    values = list(images.values())
    assert not any(torch.equal(a, b) for i, a in enumerate(values) for b in values[:i])


def draw_and_fail():
    with draws_of(1, 2):
        torch.rand(9)
        raise KeyError


def test_everything_is_put_back():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        augmented(photo())
        with pytest.raises(KeyError):
            draw_and_fail()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.rand(4), expected)


def test_threads_do_not_change_an_image():
    """A sum over 224 x 224 pixels is rounded differently by two threads."""
    image = photo(1, (300, 280))
    threads = torch.get_num_threads()
    try:
        made = []
        for count in (1, 2):
            torch.set_num_threads(count)
            made.append([augmented(image, place, size=224) for place in range(8)])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*made, strict=True))


def test_eigenvectors_are_orthonormal_and_lighting_has_their_covariance():
    vectors = torch.tensor(ours.EIGENVECTORS, dtype=torch.float64)
    torch.testing.assert_close(
        vectors.T @ vectors, torch.eye(3).double(), atol=2 * FOUR_DIGITS, rtol=0
    )
    lighting = ours.Lighting(0.1)
    colours = []
    for place in range(4000):
        with draws_of(0, place):
            shift = lighting(torch.zeros(3, 2, 2))
        assert torch.equal(shift, shift[:, :1, :1].expand(3, 2, 2))
        colours.append(shift[:, 0, 0].double())
    # along each principal colour: independent, of standard deviation 0.1 times the eigenvalue
    along = torch.stack(colours) @ vectors / (0.1 * torch.tensor(ours.EIGENVALUES).double())
    torch.testing.assert_close(
        along.T.cov(), torch.eye(3).double(), atol=SAMPLED_COVARIANCE, rtol=0
    )
    assert along.mean(0).abs().max() < SAMPLED_MEAN


def test_crops_have_the_area_aspect_and_flips_of_the_paper():
    """Red tells the column, green the row; the crop's corners tell area, aspect and mirror."""
    width, height = 256, 256
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    ramp = np.stack([columns, rows, np.full_like(rows, 128)], -1).astype(np.uint8)
    crop, *_, flip, _ = ours.train_transform(32).transforms
    areas, aspects, mirrored = [], [], 0
    for place in range(600):
        with draws_of(1, place):
            made = np.asarray(flip(crop(Image.fromarray(ramp)))).astype(float)
        across = (made[16, -1, 0] - made[16, 0, 0]) / 31 * 32
        down = (made[-1, 16, 1] - made[0, 16, 1]) / 31 * 32
        mirrored += across < 0
        areas.append(abs(across) * down / width / height)
        aspects.append(abs(across) / down)
    assert 0.07 < min(areas) < 0.12
    assert 0.9 < max(areas) < 1.05
    assert 0.70 < min(aspects) < 0.80
    assert 1.25 < max(aspects) < 1.43
    assert abs(np.mean(np.log(aspects))) < SAMPLED_LOG_ASPECT
    assert 240 < mirrored < 360


def test_colours_vary_by_40_percent_in_random_order():
    jitter = next(t for t in ours.train_transform(8).transforms if hasattr(t, "brightness"))
    assert jitter.brightness == jitter.contrast == jitter.saturation
    assert jitter.brightness == pytest.approx((0.6, 1.4))
    assert jitter.hue is None
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1)) * 0.5 + 0.1
    orders = set()
    for place in range(60):
        with draws_of(0, place):
            params = jitter.make_params([image])
        orders.add(tuple(part for part in params["fn_idx"].tolist() if part != 3))
    assert len(orders) == math.factorial(3)


def test_the_mean_of_a_plain_image_is_that_of_its_draws():
    """On a plain grey image only brightness and lighting show: 0.6 to 1.4 times the grey."""
    levels = []
    for place in range(300):
        made = augmented(plain((100, 100, 100)), 2, place, size=8) * STD + MEAN
        assert (made.amax((1, 2)) - made.amin((1, 2))).max() < LAYER
        levels.append(made.mean().item() * 255)
    assert 45 < min(levels) < 75
    assert 125 < max(levels) < 155
    assert np.mean(levels) == pytest.approx(100, abs=5)


def test_normalization():
    made = ours.evaluation_transform(8)(plain((255, 0, 51)))
    expected = (torch.tensor([1.0, 0.0, 0.2]).view(3, 1, 1) - MEAN) / STD
    torch.testing.assert_close(made, expected.expand(3, 8, 8))


def test_evaluation_takes_the_centre_seven_eighths_of_the_short_side():
    """224 of 256: on a ramp, the crop spans 7/8 of the height, and as much of the width."""
    columns, rows = np.meshgrid(np.arange(400), np.arange(256))
    ramp = np.stack([columns // 2, rows, np.zeros_like(rows)], -1).astype(np.uint8)
    made = (ours.evaluation_transform(224)(Image.fromarray(ramp)) * STD + MEAN) * 255
    torch.testing.assert_close(made[1, :, 0], torch.arange(16.0, 240.0))
    torch.testing.assert_close(made[0, 0, ::2], torch.arange(44.0, 156.0))
    small = (ours.evaluation_transform(112)(Image.fromarray(ramp)) * STD + MEAN) * 255
    assert small[1, 0, 0] == pytest.approx(16.5, abs=1)
    assert small[1, -1, 0] == pytest.approx(238.5, abs=1)


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (199, 1), (3, 500)])
def test_any_size_is_brought_to_size(size):
    assert augmented(photo(0, size)).shape == (3, 24, 24)
    assert ours.evaluation_transform(24)(photo(0, size)).shape == (3, 24, 24)
