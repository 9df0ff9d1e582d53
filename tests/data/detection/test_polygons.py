"""Polygons as masks: pixel for pixel those of pycocotools, bounded, and what is malformed."""

import tracemalloc

import numpy as np
import pytest

from groupnorm.data.detection import polygons

HEIGHT, WIDTH = 30, 40


def drawn(*parts, size=(HEIGHT, WIDTH)):
    return polygons.draw(polygons.parse([list(part) for part in parts]), *size)


def test_a_square():
    mask = drawn([2, 3, 10, 3, 10, 9, 2, 9])
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[3:9, 2:10] = 1
    assert mask.dtype == np.uint8
    assert (mask == expected).all()


def test_parts_are_united_not_subtracted():
    mask = drawn([2, 3, 10, 3, 10, 9, 2, 9], [6, 3, 20, 3, 20, 9, 6, 9])
    assert mask.sum() == 18 * 6
    assert mask[5, 8] == 1


def test_what_lies_outside_is_cut_off():
    assert drawn([-5, -5, 4, -5, 4, 3, -5, 3]).sum() == 12
    assert drawn([-50, -50, 500, -50, 500, 300, -50, 300]).sum() == HEIGHT * WIDTH
    assert drawn([100, 100, 120, 100, 120, 120]).sum() == 0
    assert drawn([-20, 2, -10, 2, -10, 9]).sum() == 0


def test_a_line_is_empty():
    assert drawn([2, 2, 10, 10, 18, 18]).sum() == 0
    assert drawn([2, 2, 2, 2, 2, 2]).sum() == 0


def shapes():
    rng = np.random.default_rng(0)
    for number in range(400):
        height, width = (int(side) for side in rng.integers(1, 60, 2))
        corners = int(rng.integers(3, 9))
        points = [
            rng.uniform(0, 1, (corners, 2)) * [width, height],
            rng.uniform(-1, 2, (corners, 2)) * [width, height],
            rng.integers(-5, 70, (corners, 2)).astype(float),
            np.round(rng.uniform(-0.2, 1.2, (corners, 2)) * [width, height], 2),
            rng.integers(-20, 140, (corners, 2)) / 10,
        ][number % 5]
        yield points, height, width


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_masks_are_those_of_pycocotools():
    coco = pytest.importorskip("pycocotools.mask")
    areas = []
    for points, height, width in shapes():
        theirs = coco.decode(coco.frPyObjects([points.ravel().tolist()], height, width))[:, :, 0]
        assert (polygons.draw([points], height, width) == theirs).all()
        areas.append(int(theirs.sum()))
    assert min(areas) == 0
    assert np.mean(areas) > 100


def test_far_coordinates_need_no_memory():
    """Followed on its fine grid, each of these edges would have ten million points."""
    far = float(polygons.LARGEST_COORDINATE)
    tracemalloc.start()
    mask = drawn([-far, -far, far, -far, far, far, -far, far] * 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert mask.shape == (HEIGHT, WIDTH)
    assert peak < 1 << 20


def test_a_polygon_that_passes_too_many_columns(monkeypatch):
    monkeypatch.setattr(polygons, "MOST_CROSSINGS", 100)
    with pytest.raises(ValueError, match="pass more than 100 columns"):
        drawn([0, 0, 39, 9] * 10)
    assert drawn([0, 0, 39, 9, 0, 20]).any()


@pytest.mark.parametrize(
    ("segmentation", "why"),
    [
        ([], "segmentation is empty"),
        ([[]], "at least 6; one has 0"),
        ([[1, 2]], "at least 6; one has 2"),
        ([[1, 2, 3, 4]], "at least 6; one has 4"),
        ([[1, 2, 3, 4, 5, 6, 7]], "even number.*one has 7"),
        ([[1, 2, 3, 4, 5, 6], [1, 2]], "one has 2"),
        ([1, 2, 3, 4, 5, 6], "expected a list of coordinates for each polygon, got 1"),
        ([[1, 2, 3, 4, 5, float("nan")]], "got .*nan"),
        ([[1, 2, 3, 4, 5, float("inf")]], "got .*inf"),
        ([[1, 2, 3, 4, 5, 10**400]], "got .*1000"),
        ([[1, 2, 3, 4, 5, -2e6]], "from -1048576 to 1048576"),
        ([[1, 2, 3, 4, 5, "6"]], "got .*'6'"),
        ([[1, 2, 3, 4, 5, None]], "got .*None"),
        ([[1, 2, 3, 4, 5, True]], "got .*True"),
    ],
)
def test_malformed(segmentation, why):
    with pytest.raises(ValueError, match=why):
        polygons.parse(segmentation)
