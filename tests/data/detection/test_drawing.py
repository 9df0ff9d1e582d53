"""What is drawn of objects, and where."""

import numpy as np
import pytest

from groupnorm.data.detection import rle
from groupnorm.data.detection.drawing import DrawnObject, color_of, draw_objects, drawn_object

RED = (255, 0, 0)


def plain(value=100, height=40, width=60):
    return np.full((height, width, 3), value, np.uint8)


def square(height=40, width=60):
    mask = np.zeros((height, width), np.uint8)
    mask[10:20, 10:30] = 1
    return mask


def changed(drawing, image):
    return (drawing != image).any(axis=2)


def test_nothing_is_drawn_without_objects():
    image = plain()
    assert (draw_objects(image, []) == image).all()
    assert draw_objects(image, [], 3).shape == (120, 180, 3)


def test_a_mask_is_half_transparent_and_the_image_stays_as_it_was():
    image = plain()
    drawing = draw_objects(image, [DrawnObject((10, 10, 30, 20), RED, mask=square())])
    inside = drawing[12:18, 12:28]
    assert (inside == inside[0, 0]).all()
    red, green, blue = inside[0, 0].tolist()
    assert 100 < red < 255
    assert 0 < green == blue < 100
    assert (image == 100).all()


@pytest.mark.parametrize("value", [0, 100, 255])
def test_an_edge_stands_out_from_a_light_and_from_a_dark_image(value):
    """On one of its two lines, its colour or the dark one around it, with much contrast."""
    drawing = draw_objects(plain(value), [DrawnObject((10, 10, 30, 20), color_of(0))])
    column = drawing[15, 8:12].astype(int)
    assert np.abs(column - value).max() >= 150
    assert (drawing[15, 12:28] == value).all()  # and nothing is drawn inside


def test_a_box_is_drawn_on_its_first_and_last_pixels():
    drawing = draw_objects(plain(), [DrawnObject((10, 10, 30, 20), RED)], 2)
    is_red = (drawing == RED).all(axis=2)
    rows, columns = np.nonzero(is_red)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 39, 20, 59)


def test_the_first_object_lies_on_top():
    one, other = (DrawnObject((5, 5, 50, 30), color_of(number)) for number in (0, 1))
    drawing = draw_objects(plain(), [one, other])
    assert tuple(drawing[5, 20]) == color_of(0)


def size_of_text(box):
    """Height and width of what a text changes in a drawing."""
    image = plain(height=60, width=120)
    without, with_text = (draw_objects(image, [DrawnObject(box, RED, t)]) for t in ("", "tops 0.9"))
    rows, columns = np.nonzero(changed(without, with_text))
    return np.array([np.ptp(rows), np.ptp(columns)])


@pytest.mark.parametrize(
    "box", [(0, 0, 120, 60), (110, 50, 120, 60), (0, 58, 5, 60), (-9, -9, 3, 3), (119, 0, 150, 9)]
)
def test_a_text_stays_in_the_image(box):
    """It is as large as beside a box in the middle of the image."""
    assert np.abs(size_of_text(box) - size_of_text((30, 30, 90, 50))).max() <= 2


def test_texts_do_not_cover_each_other():
    def ink(*texts):
        objects = [DrawnObject((20, 30, 110, 90), RED, text) for text in texts]
        return (draw_objects(plain(height=100, width=120), objects)[..., 2] > 160).sum()

    assert ink("one") > 10
    assert ink("one", "other") == ink("one") + ink("other")


def test_ink_is_dark_on_light_colours_and_light_on_dark_ones():
    def extremes(color):
        drawing = draw_objects(plain(), [DrawnObject((5, 20, 55, 35), color, "tops")])
        text = drawing[8:20, 5:40].reshape(-1, 3)
        return text.max(axis=0).tolist(), text.min(axis=0).tolist()

    assert extremes((255, 255, 0))[1] == [0, 0, 0]
    assert extremes((0, 0, 200))[0] == [255, 255, 255]


def test_neighbouring_categories_have_unlike_colours():
    colors = np.array([color_of(number) for number in range(80)], int)
    assert len({tuple(color) for color in colors.tolist()}) == 80
    for step in (1, 2, 3, 4):
        assert np.abs(colors[step:] - colors[:-step]).max(axis=1).min() > 60


def test_an_object_of_a_record():
    entry = {"category": "b", "box": [1, 2, 3, 4], "score": 0.925,
             "mask": rle.to_json(rle.encode(square()), 40, 60)}  # fmt: skip
    one = drawn_object(entry, ["a", "b"], 40, 60)
    assert (one.box, one.color, one.text) == ((1, 2, 3, 4), color_of(1), "b 0.93")
    assert (one.mask == square()).all()
    entry_of_truth = {"category": "a", "box": [1, 2, 3, 4], "mask": None, "crowd": True}
    truth = drawn_object(entry_of_truth, ["a"], 40, 60)
    assert (truth.text, truth.mask) == ("a", None)
    with pytest.raises(ValueError, match="unknown category 'b'; known: a"):
        drawn_object(entry, ["a"], 40, 60)
    huge = {"size": [10**6, 10**6], "counts": [10**12]}
    for mask in (huge, {**entry["mask"], "size": [40, 61]}):
        with pytest.raises(ValueError, match=r"its mask has size .*, the image \[40, 60\]"):
            drawn_object({**entry, "mask": mask}, "ab", 40, 60)


def test_arguments_that_do_not_fit():
    with pytest.raises(ValueError, match="a mask of 40 x 60 pixels like the image, got 41 x 60"):
        draw_objects(plain(), [DrawnObject((0, 0, 9, 9), RED, mask=square(41))])
    with pytest.raises(ValueError, match="enlarge must be at least 1, got 0"):
        draw_objects(plain(), [], 0)
