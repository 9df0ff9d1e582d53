"""The images of a conversion: two parts that share none, labels by folder."""

import os

import pytest
import torch

from groupnorm.data import DataError
from groupnorm.data.files.transforms import MEAN, STD
from groupnorm.run.conversion.images import split_images
from tests.data.files.image_trees import BROKEN, class_folders, photo, write


def split(folder, count=6, held_out=2, **options):
    return split_images(folder, count, held_out, 8, MEAN, STD, **options)


def names(part):
    return ["/".join(path.split(os.sep)[-2:]) for path in part.paths]


@pytest.fixture
def folder(tmp_path):
    return class_folders(tmp_path / "photos", images=6)


def test_both_parts_are_spread_over_the_folder_and_share_no_image(folder):
    parts = split(folder)
    assert names(parts.held_out) == ["cat/3.jpg", "dog/3.jpg"]
    assert names(parts.calibration) == [
        "cat/0.jpg", "cat/2.jpg", "cat/5.jpg", "dog/0.jpg", "dog/2.jpg", "dog/5.jpg",
    ]  # fmt: skip
    assert parts.labels is None
    ((images, labels),) = parts.labelled()
    assert (images.shape, labels) == ((2, 3, 8, 8), None)


def test_few_images_are_divided_in_proportion(folder):
    parts = split(folder, 96, 32)
    assert [len(part.paths) for part in (parts.calibration, parts.held_out)] == [9, 3]
    parts = split(folder, 1, 1000)
    assert [len(part.paths) for part in (parts.calibration, parts.held_out)] == [2, 10]


def test_labels_follow_the_folders_and_skip_what_cannot_be_decoded(folder):
    write(folder / "cat" / "3.jpg", BROKEN)
    write(folder / "z.jpg", photo())
    parts = split(folder, with_classes=True)
    assert parts.classes == ["cat", "dog"]
    assert "left out: 1 image in" in parts.held_out.notes[0]
    ((images, labels),) = parts.labelled()
    assert len(images) == 1
    assert torch.equal(labels, torch.tensor([1]))
    assert [path[-9:] for path in parts.unreadable()] == ["cat/3.jpg"]


def test_too_few(tmp_path):
    write(tmp_path / "1.jpg", photo())
    with pytest.raises(DataError, match="has 1 image; expected 3 at least"):
        split(tmp_path)
    with pytest.raises(ValueError, match="got 0 and 2"):
        split(tmp_path, 0)
    with pytest.raises(DataError, match="has no class folders, but 1 image in it directly"):
        split(tmp_path, with_classes=True)
