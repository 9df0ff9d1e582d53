"""Area averaging against averages over repeated pixels."""

import numpy as np
import pytest

from groupnorm.data.synthetic.resample import area_matrices, area_table, resample
from tests.tolerances import DOUBLE


def image(height, width, channels=2):
    return np.random.default_rng(0).random((height, width, channels))


def test_table_holds_the_sums_of_all_corners():
    pixels = image(4, 3)
    table = area_table(pixels)
    for y in range(5):
        for x in range(4):
            np.testing.assert_allclose(table[y, x], pixels[:y, :x].sum((0, 1)), atol=DOUBLE)


def test_one_to_one_is_the_image():
    pixels = image(5, 6)
    np.testing.assert_allclose(resample(area_table(pixels), 0, 0, 1, 1, 5, 6), pixels, atol=DOUBLE)


def test_shrinking_by_a_fraction_is_the_exact_mean():
    pixels = image(6, 9)
    # two thirds: repeat every pixel twice, then average blocks of three
    fine = pixels.repeat(2, 0).repeat(2, 1)
    expected = fine.reshape(4, 3, 6, 3, 2).mean((1, 3))
    result = resample(area_table(pixels), 0, 0, 1.5, 1.5, 4, 6)
    np.testing.assert_allclose(result, expected, atol=DOUBLE)


def test_offset_and_unequal_steps():
    pixels = image(8, 8)
    result = resample(area_table(pixels), 1, 2, 2, 3, 3, 2)
    expected = pixels[1:7, 2:8].reshape(3, 2, 2, 3, 2).mean((1, 3))
    np.testing.assert_allclose(result, expected, atol=DOUBLE)


@pytest.mark.parametrize("step", [1.0, 0.5])
def test_outside_is_zero(step):
    table = area_table(np.ones((4, 4, 1)))
    result = resample(table, -3, -3, step, step, int(10 / step), int(10 / step))[..., 0]
    assert result[0, 0] == 0
    assert result[-1, -1] == 0
    np.testing.assert_allclose(result.sum() * step**2, 16)


def test_enlarging_is_linear_interpolation():
    ramp = np.arange(6.0)[None, :, None].repeat(4, 0)
    result = resample(area_table(ramp), 1, 1, 0.25, 0.25, 8, 12)[..., 0]
    centres = 1 + 0.25 * (np.arange(12) + 0.5) - 0.5
    np.testing.assert_allclose(result, np.broadcast_to(centres, (8, 12)), atol=DOUBLE)


@pytest.mark.parametrize("step", [2.3, 1.0, 0.4])
def test_matrices_do_what_resample_does(step):
    """Of an image that moves and changes its size from frame to frame, partly outside."""
    pixels = image(9, 7)
    starts, steps = np.array([-2.3, 0.0, 1.7]), step * np.array([1.0, 1.1, 0.9])
    rows = area_matrices(starts, steps, 5, 9)
    columns = area_matrices(starts + 0.4, steps, 6, 7)
    assert rows.shape == (3, 5, 9)
    for t in range(3):
        expected = resample(
            area_table(pixels), starts[t], starts[t] + 0.4, steps[t], steps[t], 5, 6
        )
        for channel in range(2):
            found = rows[t] @ pixels[..., channel] @ columns[t].T
            np.testing.assert_allclose(found, expected[..., channel], atol=DOUBLE)
