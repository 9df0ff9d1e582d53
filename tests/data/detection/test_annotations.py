"""Data sets of two splits: what is trained on, samples of it, and what is held out."""

import pytest

from groupnorm.data import DataError
from tests.data.detection.coco_files import data, detection_set, image


def ids(split):
    return [entry.id for entry in split.images]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Eight training images, of which 0, 3 and 6 have no object."""
    return detection_set(tmp_path_factory.mktemp("toy"))


def test_images_with_objects(toy):
    assert toy.train.with_objects == (1, 2, 4, 5, 7)
    assert len(toy.train.images) == 8


def test_a_sample_of_the_training_images(toy):
    assert ids(toy.sample_train(3).train) == [101, 102, 104]
    assert toy.sample_train(3).train.with_objects == (0, 1, 2)
    assert ids(toy.sample_train(5).train) == [101, 102, 104, 105, 107]
    assert toy.sample_train(None) is toy
    assert ids(toy.sample_train(3).test) == ids(toy.test)
    for count in (0, 6):
        with pytest.raises(ValueError, match=rf"train_images={count}, but toy has 5 of them"):
            toy.sample_train(count)


def test_held_out_images(toy):
    held = toy.hold_out(2)
    assert ids(held.test) == [105, 107]
    assert ids(held.train) == [100, 101, 102, 103, 104, 106]
    assert "AP is on 2 images held out of the training images" in held.notes[-1]
    assert toy.hold_out(None) is toy
    for count in (0, 5, 9):
        with pytest.raises(ValueError, match=rf"validation_images={count}, but toy has 5 training"):
            toy.hold_out(count)


def test_nothing_to_train_on(tmp_path):
    with pytest.raises(DataError, match=r"train2017\.json: no image has an object to train on"):
        detection_set(tmp_path, train=data([], [image()]))
