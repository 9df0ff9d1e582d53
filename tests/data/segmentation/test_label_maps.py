"""SegmentationSet: what it accepts, what is held out, and classes that no pixel has."""

import pytest
import torch

from groupnorm.data import DataError
from groupnorm.data.segmentation.label_maps import IGNORED
from tests.data.segmentation.tiny_maps import CLASSES, tiny_maps


def test_what_is_known_of_it():
    data = tiny_maps()
    assert (data.num_classes, data.channels) == (3, 3)
    assert (data.train_size, data.test_size) == (24, 11)
    pixels = data.train_images.double() / 255
    mean, std = data.moments
    torch.testing.assert_close(mean, pixels.mean((0, 2, 3)).float())
    torch.testing.assert_close(std, pixels.std((0, 2, 3), correction=0).float())


def test_classes_without_a_test_pixel_are_named():
    assert tiny_maps().absent == ()
    maps = tiny_maps().test_maps
    maps[maps == 1] = IGNORED
    assert tiny_maps(test_maps=maps).absent == ("square",)
    more = tiny_maps(class_names=(*CLASSES, "star"))
    assert more.absent == ("star",)


def test_the_last_training_images_are_held_out():
    whole = tiny_maps()
    held = whole.hold_out(5)
    assert (held.train_size, held.test_size) == (19, 5)
    assert torch.equal(held.test_images, whole.train_images[19:])
    assert torch.equal(held.test_maps, whole.train_maps[19:])
    assert torch.equal(held.train_maps, whole.train_maps[:19])
    assert held.notes[-1].startswith("results are on 5 validation images")
    assert whole.hold_out(None) is whole
    with pytest.raises(ValueError, match="validation_images=24, but shapes has 24 training images"):
        whole.hold_out(24)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"train_images": torch.zeros(24, 3, 16, 16)}, "train: expected contiguous uint8 images"),
        ({"test_images": torch.zeros(11, 1, 16, 16, dtype=torch.uint8)}, r"test: .*\(3, 16, 16\)"),
        ({"test_images": torch.zeros(0, 3, 16, 16, dtype=torch.uint8)}, "at least one"),
        ({"train_maps": torch.zeros(24, 16, 16)}, r"train: expected uint8 maps \(24, 16, 16\)"),
        ({"test_maps": torch.zeros(11, 16, 15, dtype=torch.uint8)}, "test: expected uint8 maps"),
        ({"test_maps": torch.zeros(9, 16, 16, dtype=torch.uint8)}, "one for each image, got"),
        ({"train_maps": torch.full((24, 16, 16), 3, dtype=torch.uint8)}, "from 0 to 2, or 255.*3$"),
        ({"class_names": CLASSES[:2]}, "labels from 0 to 1, or 255 for a pixel .* got 2"),
    ],
)
def test_wrong_tensors_are_refused(changes, told):
    with pytest.raises(DataError, match=told):
        tiny_maps(**changes)
