"""Crops: the sizes and places of the published recipe, in frames of any size."""

import numpy as np
import pytest

from groupnorm.data.video.transforms import (
    Crop,
    CropSizes,
    Draws,
    cut_out,
    evaluation_crops,
    resized,
    training_crop,
)

PUBLISHED = CropSizes(crop=224, shortest=256, longest=320, evaluation=256)


def draws(**drawn):
    return Draws(**{**dict.fromkeys(Draws._fields, 0.0), **drawn})


def test_the_sizes_of_the_published_recipe_and_of_smaller_crops():
    assert CropSizes.of(224) == PUBLISHED
    assert CropSizes.of(112) == CropSizes(112, 128, 160, 128)
    assert CropSizes.of(1) == CropSizes(1, 1, 1, 1)


@pytest.mark.parametrize("sizes", [(0, 1, 1, 1), (8, 7, 9, 8), (8, 9, 8, 8), (8, 8, 8, 7)])
def test_sizes_that_do_not_fit_are_refused(sizes):
    with pytest.raises(
        ValueError, match="expected 1 <= crop <= shortest <= longest and crop <= ev"
    ):
        CropSizes(*sizes)


@pytest.mark.parametrize(
    ("height", "width", "short_side", "expected"),
    [
        (240, 320, 256, (256, 341)),
        (320, 240, 256, (341, 256)),
        (256, 256, 256, (256, 256)),
        (1, 1, 256, (256, 256)),
        (3, 500, 16, (16, 2667)),
        (1080, 1920, 256, (256, 455)),
    ],
)
def test_the_shorter_side_is_resized(height, width, short_side, expected):
    assert resized(height, width, short_side) == expected


def test_training_crops_take_every_size_and_place():
    """The least and the greatest draws give the ends of each range."""
    almost = np.nextafter(1.0, 0.0)
    least = training_crop(240, 320, PUBLISHED, draws(flip=0.5), flip=True)
    assert least == Crop(256, 341, 0, 0, 224, flip=False)
    greatest = training_crop(
        240, 320, PUBLISHED, draws(short_side=almost, top=almost, left=almost, flip=0.49), flip=True
    )
    assert greatest == Crop(320, 427, 320 - 224, 427 - 224, 224, flip=True)
    assert not training_crop(240, 320, PUBLISHED, draws(), flip=False).flip
    generator = np.random.default_rng(0)
    sides = {
        training_crop(240, 320, PUBLISHED, Draws(*generator.random(5)), flip=True).height
        for _ in range(2000)
    }
    assert sides == set(range(256, 321))


def test_evaluation_takes_the_centre_or_three_crops_along_the_longer_side():
    assert evaluation_crops(240, 320, PUBLISHED, 1) == [Crop(256, 341, 16, 58, 224, flip=False)]
    wide = evaluation_crops(240, 320, PUBLISHED, 3)
    assert [(crop.top, crop.left) for crop in wide] == [(16, 0), (16, 58), (16, 117)]
    high = evaluation_crops(320, 240, PUBLISHED, 3)
    assert [(crop.top, crop.left) for crop in high] == [(0, 16), (58, 16), (117, 16)]
    assert wide[1] == evaluation_crops(240, 320, PUBLISHED, 1)[0]


def picture(height, width):
    y, x = np.mgrid[:height, :width]
    return np.stack([y, x, np.full_like(x, 7)], 2).astype(np.uint8)


def test_a_crop_that_is_not_resized_has_the_frames_own_pixels():
    frame = picture(20, 30)
    cut = cut_out(frame, [Crop(20, 30, 3, 5, 8, flip=False), Crop(20, 30, 3, 5, 8, flip=True)])
    assert (cut.shape, cut.dtype) == ((2, 8, 8, 3), np.uint8)
    np.testing.assert_array_equal(cut[0], frame[3:11, 5:13])
    np.testing.assert_array_equal(cut[1], frame[3:11, 12:4:-1])


def test_a_crop_of_a_resized_frame_lies_where_it_should():
    frame = picture(40, 60)
    (cut,) = cut_out(frame, [Crop(80, 120, 20, 60, 32, flip=False)])  # twice as large
    assert np.abs(cut[:, :, 0] - (20 + np.arange(32)[:, None] + 0.5) / 2 + 0.5).max() <= 1
    assert np.abs(cut[:, :, 1] - (60 + np.arange(32)[None] + 0.5) / 2 + 0.5).max() <= 1
    (cut,) = cut_out(frame, [Crop(20, 30, 12, 22, 8, flip=False)])  # half as large, to the corner
    assert np.abs(cut[:, :, 0] - (2 * (12 + np.arange(8))[:, None] + 0.5)).max() <= 1
    assert np.abs(cut[:, :, 1] - (2 * (22 + np.arange(8))[None] + 0.5)).max() <= 1


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (1, 200), (47, 31)])
def test_frames_of_any_size_give_crops_of_one(height, width):
    frame = picture(height, width)
    almost = np.nextafter(1.0, 0.0)
    crops = evaluation_crops(height, width, PUBLISHED, 3) + [
        training_crop(height, width, PUBLISHED, Draws(*[share] * 5), flip=True)
        for share in (0.0, 0.5, almost)
    ]
    assert cut_out(frame, crops).shape == (6, 224, 224, 3)


def test_a_frame_that_was_turned_is_cut_out_all_the_same():
    frame = np.rot90(picture(30, 20))  # not contiguous
    (cut,) = cut_out(frame, [Crop(20, 30, 0, 0, 16, flip=False)])
    np.testing.assert_array_equal(cut, frame[:16, :16])
