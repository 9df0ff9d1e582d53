"""Runs of masks: there and back, as pycocotools has them, and what is malformed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groupnorm.data.detection import rle

SIZE = {"size": [3, 4]}


def masks(count=40):
    rng = np.random.default_rng(0)
    for share in np.linspace(0, 1, count):
        yield rng.random(rng.integers(1, 40, 2)) < share


def test_runs_go_down_the_columns_and_begin_outside():
    mask = np.array([[1, 0, 0], [1, 0, 1]])
    assert rle.encode(mask).tolist() == [0, 2, 3, 1]
    assert rle.encode(np.zeros((2, 3))).tolist() == [6]
    assert rle.encode(np.ones((2, 3))).tolist() == [0, 6]
    assert rle.area(rle.encode(mask)) == 3
    assert rle.area(rle.encode(np.zeros((2, 3)))) == 0


def test_there_and_back():
    for mask in masks():
        runs = rle.encode(mask)
        decoded = rle.decode(runs, *mask.shape)
        assert decoded.dtype == np.uint8
        assert decoded.flags.c_contiguous
        assert (decoded == mask).all()
        assert rle.area(runs) == mask.sum()
        for counts in (rle.to_string(runs), rle.to_string(runs).encode(), runs.tolist()):
            parsed = rle.parse({"size": list(mask.shape), "counts": counts}, *mask.shape)
            assert (parsed == runs).all()


def test_strings_are_those_of_pycocotools():
    coco = pytest.importorskip("pycocotools.mask")
    for mask in masks():
        theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
        assert rle.to_string(rle.encode(mask)).encode() == theirs
    large = np.zeros((3000, 2000), np.uint8)
    large[:, 700:] = 1
    theirs = coco.encode(np.asfortranarray(large))["counts"]
    assert rle.to_string(rle.encode(large)).encode() == theirs
    assert (rle.from_string(theirs) == [3000 * 700, 3000 * 1300]).all()


@pytest.mark.parametrize(
    ("segmentation", "why"),
    [
        ({**SIZE, "counts": [5, 6]}, "have 11 pixels, the image 12"),
        ({**SIZE, "counts": [5, 8]}, "have 13 pixels, the image 12"),
        ({**SIZE, "counts": []}, "have 0 pixels"),
        ({**SIZE, "counts": ""}, "have 0 pixels"),
        ({**SIZE, "counts": [15, -3]}, "negative or longer"),
        ({**SIZE, "counts": [10**30]}, "negative or longer"),
        ({**SIZE, "counts": [6, 6.0]}, "neither a string nor whole numbers"),
        ({**SIZE, "counts": [6, "6"]}, "neither a string nor whole numbers"),
        ({**SIZE, "counts": [6, True, 5]}, "neither a string nor whole numbers"),
        ({**SIZE, "counts": None}, "neither a string nor whole numbers"),
        (SIZE, "neither a string nor whole numbers"),
        ({"counts": [12]}, r"size None, the image \[3, 4\]"),
        ({"size": [4, 3], "counts": [12]}, r"size \[4, 3\], the image \[3, 4\]"),
        ({"size": 12, "counts": [12]}, "size 12"),
        ({**SIZE, "counts": "\x7f"}, "do not belong there"),
        ({**SIZE, "counts": "<\n"}, "do not belong there"),
        ({**SIZE, "counts": "é"}, "outside ASCII"),
        ({**SIZE, "counts": "P"}, "cut off"),
        ({**SIZE, "counts": "<P"}, "cut off"),
        ({**SIZE, "counts": "PPPPPPPPP0"}, "too long"),
        ({**SIZE, "counts": rle.to_string(np.array([5, 6]))}, "have 11 pixels"),
        ({**SIZE, "counts": rle.to_string(np.array([15, -3]))}, "negative or longer"),
    ],
)
def test_malformed(segmentation, why):
    with pytest.raises(ValueError, match=why):
        rle.parse(segmentation, 3, 4)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30) | st.text("0123456789PQRo", max_size=30))
def test_any_string_is_a_mask_of_this_size_or_an_error(text):
    try:
        runs = rle.parse({**SIZE, "counts": text}, 3, 4)
    except ValueError:
        return
    assert rle.decode(runs, 3, 4).shape == (3, 4)
