"""The images of a conversion: two parts that share none, labels by folder."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from groupnorm.data import DataError
from groupnorm.data.files.folder_images import FolderImages
from groupnorm.data.files.transforms import MEAN, STD
from groupnorm.run.conversion import images as images_module
from groupnorm.run.conversion import memory
from groupnorm.run.conversion.images import split_images
from tests.data.files.image_trees import BROKEN, class_folders, encoded, photo, write

FIXED = "gn:groups=2"


def split(folder, count=6, held_out=2, **options):
    return split_images(folder, count, held_out, 8, MEAN, STD, **{"to": FIXED, **options})


def names(paths):
    return ["/".join(path.split(os.sep)[-2:]) for path in paths]


def sizes(parts):
    return tuple(len(paths) for paths in parts.paths)


@pytest.fixture
def folder(tmp_path):
    return class_folders(tmp_path / "photos", images=6)


def test_both_parts_are_spread_over_the_folder_and_share_no_image(folder):
    parts = split(folder)
    assert names(parts.paths[1]) == ["cat/3.jpg", "dog/3.jpg"]
    assert names(parts.paths[0]) == [
        "cat/0.jpg", "cat/2.jpg", "cat/5.jpg", "dog/0.jpg", "dog/2.jpg", "dog/5.jpg",
    ]  # fmt: skip
    assert parts.labels is None
    ((images, labels),) = parts.labelled()
    assert (images.shape, labels) == ((2, 3, 8, 8), None)
    assert [len(batch) for batch in parts.calibration] == [6]


def test_few_images_are_divided_in_proportion_but_neither_part_starves(folder):
    assert sizes(split(folder, 96, 32)) == (9, 3)
    assert sizes(split(folder, 6, 1000)) == (6, 6)
    assert sizes(split(folder, 1000, 2)) == (10, 2)
    for number in range(12, 40):
        write(folder / "cat" / f"{number}.jpg", photo(number))
    assert sizes(split(folder, 1000, 10)) == (32, 8)
    assert sizes(split(folder, 10, 1000)) == (8, 32)
    assert sizes(split(folder, 1000, 3)) == (37, 3)
    assert sizes(split(folder, 32, 6)) == (32, 6)
    parts = split(folder, 1000, 10)
    assert parts.notes == [
        "there are 40 different images, not 1,000 to calibrate on and 10 others to hold "
        "out: 32 and 8 are taken",
        "only 8 images are held out: each changes a percentage by 12 points",
    ]


def test_labels_follow_the_folders_and_skip_what_cannot_be_decoded(folder):
    write(folder / "cat" / "3.jpg", BROKEN)
    write(folder / "z.jpg", photo())
    parts = split(folder, 6, 6, with_classes=True)
    assert parts.classes == ["cat", "dog"]
    assert "left out: 1 image in" in parts.notes[0]
    assert parts.notes[1].startswith("left out: 1 image that cannot be decoded: ")
    ((images, labels),) = parts.labelled()
    right = [["cat", "dog"].index(name.split("/")[0]) for name in names(parts.paths[1])]
    assert len(images) == len(right) == 5
    assert torch.equal(labels, torch.tensor(right))
    assert [path[-9:] for path in parts.unreadable] == ["cat/3.jpg"]


def test_copies_are_left_out_by_their_pixels(folder):
    first = photo(0)
    write(folder / "cat" / "0.jpg", encoded(first, "PNG"))
    write(folder / "dog" / "again.jpg", encoded(first, "BMP"))
    parts = split(folder, 20, 20)
    assert sum(sizes(parts)) == 12
    assert "left out: 1 image with the pixels of others: again.jpg" in parts.notes
    both = torch.cat([*parts.calibration, *parts.held_out])
    assert len({image.numpy().tobytes() for image in both}) == 12


def test_frames_of_a_video_are_said_to_be_alike(tmp_path):
    still = np.asarray(photo(0)).astype(int)
    noise = np.random.default_rng(0)
    for number in range(12):
        frame = (still + noise.integers(-4, 5, still.shape)).clip(0, 255).astype(np.uint8)
        write(tmp_path / f"{number}.png", encoded(Image.fromarray(frame), "PNG"))
    assert split(tmp_path).notes[-1].startswith("7 of 8 images look nearly like earlier ones")


def test_large_images_are_in_small_batches(folder, monkeypatch):
    monkeypatch.setattr(images_module, "_LARGE", 3)
    parts = split(folder)
    assert [len(batch) for batch in parts.calibration] == [4, 2]
    assert [len(images) for images, _ in parts.labelled()] == [2]


def test_images_that_do_not_fit_in_memory(folder, monkeypatch):
    monkeypatch.setattr(memory, "_free_memory", lambda: 1000)
    with pytest.raises(ValueError, match=r"8 images of 8 x 8 pixels take 0\.0 GB"):
        split(folder)


def test_the_numbers_of_groups_are_chosen_from_more_images(folder, monkeypatch):
    assert sizes(split(folder, 10, 2, to="gn")) == (10, 2)
    with pytest.raises(ValueError, match="at least 10 images to calibrate on and 2 held out, got"):
        split(folder, 9, 2, to="gn")
    (folder / "cat" / "3.jpg").unlink()
    monkeypatch.setattr(FolderImages, "read", None)  # nothing is decoded
    with pytest.raises(DataError, match="has 11 images; expected 12 at least, 10 to calibrate on"):
        split(folder, 256, 64, to="gn")


def test_others_are_drawn_for_what_is_left_out(tmp_path):
    for number in range(40):
        broken = number % 4 == 1  # all that are drawn first
        write(tmp_path / f"{number:02}.jpg", BROKEN if broken else photo(number))
    write(tmp_path / "02.jpg", (tmp_path / "00.jpg").read_bytes())
    parts, again = split(tmp_path, 8, 2), split(tmp_path, 8, 2)
    assert sizes(parts) == (8, 2)
    assert not [note for note in parts.notes if "fewer" in note]
    assert (parts.paths, parts.digest) == (again.paths, again.digest)
    assert list(parts.paths[0]) == sorted(parts.paths[0])
    assert sizes(split(tmp_path, 1000, 10)) == (23, 6)


def test_the_digest_is_that_of_names_and_pixels(folder):
    before = split(folder).digest
    first = folder / "cat" / "0.jpg"
    held = first.read_bytes()
    write(first, photo(99))
    assert split(folder).digest != before
    write(first, held)
    assert split(folder).digest == before
    first.rename(folder / "cat" / "00.jpg")
    assert split(folder).digest != before


def test_too_few(tmp_path):
    for number in range(3, 9):
        write(tmp_path / f"{number}.jpg", BROKEN)
    write(tmp_path / "1.jpg", photo())
    write(tmp_path / "2.jpg", BROKEN)
    message = (
        "has 1 different image that can be decoded; expected 8 at least, 6 to .* left out: 7 i"
    )
    with pytest.raises(DataError, match=message):
        split(tmp_path)
    with pytest.raises(ValueError, match="got 0 and 2"):
        split(tmp_path, 0)
    with pytest.raises(DataError, match="has no class folders, but 8 images in it directly"):
        split(tmp_path, with_classes=True)
