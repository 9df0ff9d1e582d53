"""ImageSet: what it accepts, and its own statistics."""

import pytest
import torch

from groupnorm.data import DataError, ImageSet


def image_set(**changes):
    generator = torch.Generator().manual_seed(0)
    fields = {
        "name": "toy",
        "version": "1",
        "train_images": torch.randint(0, 256, (7, 3, 5, 4), generator=generator, dtype=torch.uint8),
        "train_labels": torch.tensor([0, 1, 2, 0, 1, 2, 2]),
        "test_images": torch.randint(0, 256, (3, 3, 5, 4), generator=generator, dtype=torch.uint8),
        "test_labels": torch.tensor([2, 1, 0]),
        "class_names": ("a", "b", "c"),
        "flip": True,
        "pad": 1,
    }
    return ImageSet(**{**fields, **changes})


def test_statistics_are_those_of_the_training_images():
    images = image_set()
    pixels = images.train_images.double() / 255
    torch.testing.assert_close(images.mean, pixels.mean((0, 2, 3)).float())
    torch.testing.assert_close(images.std, pixels.std((0, 2, 3), correction=0).float())
    assert images.mean.dtype == images.std.dtype == torch.float32
    assert (images.num_classes, images.channels) == (3, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images": torch.zeros(7, 3, 5, 4)}, "train: expected contiguous uint8"),
        ({"train_images": torch.zeros(7, 5, 4, dtype=torch.uint8)}, "expected contiguous uint8"),
        (
            {"train_images": torch.zeros(7, 5, 4, 3, dtype=torch.uint8).permute(0, 3, 1, 2)},
            "contiguous",
        ),
        ({"test_images": torch.zeros(3, 1, 5, 4, dtype=torch.uint8)}, r"test: .*\(3, 5, 4\)"),
        ({"test_images": torch.zeros(0, 3, 5, 4, dtype=torch.uint8)}, "at least one"),
        ({"test_labels": torch.tensor([0, 1])}, "test: expected 3 int64 labels"),
        ({"test_labels": torch.zeros(3)}, "int64"),
        ({"test_labels": torch.tensor([0, 1, 3])}, "labels from 0 to 2, got 0 to 3"),
        ({"train_labels": torch.tensor([0, 1, 2, 0, 1, 2, -1])}, "got -1 to 2"),
    ],
)
def test_wrong_tensors_are_refused(changes, message):
    with pytest.raises(DataError, match=message):
        image_set(**changes)
