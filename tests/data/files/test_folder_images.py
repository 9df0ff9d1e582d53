"""The images of any folder: which ones, how they are prepared, what is left out."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from groupnorm.data import DataError, folder_images
from groupnorm.data.files.folder_images import FolderImages, spread
from groupnorm.data.files.transforms import MEAN, STD
from tests.data.files.image_trees import BROKEN, class_folders, photo, write
from tests.tolerances import FOUR_DIGITS


@pytest.fixture
def folder(tmp_path):
    """Six photographs in two folders, and one beside them."""
    write(class_folders(tmp_path / "photos") / "z.jpg", photo(9))
    return tmp_path / "photos"


def relative(images, folder):
    return [os.path.relpath(path, folder) for path in images.paths]


def test_every_image_below_the_folder_in_sorted_order(folder):
    write(folder / "cat" / "deep" / "1.png", photo(7))
    for name in ("note.txt", ".hidden.jpg", ".git/1.jpg", "@eaDir/2.jpg", "cat/3.heic"):
        write(folder / name, b"")
    images = folder_images(folder, size=16)
    assert relative(images, folder) == [
        "z.jpg", "cat/0.jpg", "cat/1.jpg", "cat/2.jpg", "cat/deep/1.png",
        "dog/0.jpg", "dog/1.jpg", "dog/2.jpg",
    ]  # fmt: skip
    (note,) = images.notes
    assert note.startswith("left out because of the ending of the name: 2 files")
    (batch,) = images
    assert (batch.shape, batch.dtype) == ((8, 3, 16, 16), torch.float32)
    assert batch.is_contiguous()


def test_prepared_as_torchvision_evaluates_its_networks(tmp_path):
    from torchvision.models import ResNet18_Weights

    write(tmp_path / "1.png", photo(3, (300, 260)))
    (ours,) = folder_images(tmp_path)
    theirs = ResNet18_Weights.IMAGENET1K_V1.transforms()(Image.open(tmp_path / "1.png"))
    assert ours.shape == (1, 3, 224, 224)
    torch.testing.assert_close(ours[0], theirs, rtol=0, atol=FOUR_DIGITS)
    plain = np.full((30, 40, 3), (255, 0, 51), np.uint8)
    Image.fromarray(plain).save(tmp_path / "1.png")
    (colour,) = folder_images(tmp_path, size=8, mean=(0.5, 0.5, 0.2), std=(0.5, 0.25, 1))
    assert colour.mean((0, 2, 3)).tolist() == pytest.approx([1, -2, 0], abs=FOUR_DIGITS)


def test_so_many_spread_over_the_paths_and_the_same_each_time(folder):
    images = folder_images(folder, 3, 16, batch=2)
    assert relative(images, folder) == ["cat/0.jpg", "cat/2.jpg", "dog/1.jpg"]
    first, again = list(images), list(images)
    assert [len(batch) for batch in first] == [2, 1]
    assert all(map(torch.equal, first, again))
    assert spread(range(10), 10) == spread(range(10), 99) == list(range(10))
    assert spread(range(10), 1) == [5]
    assert spread(range(1000), 4) == [125, 375, 625, 875]


def test_images_are_decoded_batch_by_batch(folder, monkeypatch):
    images, decoded = folder_images(folder, size=16, batch=2), []
    read = FolderImages.read
    monkeypatch.setattr(
        FolderImages, "read", lambda self, path: decoded.append(path) or read(self, path)
    )
    next(iter(images))
    assert len(decoded) == 2


def test_what_cannot_be_decoded_is_left_out_and_named(folder):
    write(folder / "cat" / "1.jpg", BROKEN)
    write(folder / "dog" / "0.jpg", b"")
    os.mkfifo(folder / "dog" / "pipe.jpg")
    (folder / "dog" / "lost.jpg").symlink_to(folder / "nothing.jpg")
    images = folder_images(folder, size=16, batch=3)
    assert images.unreadable == {}
    batches = list(images)
    assert [len(batch) for batch in batches] == [3, 2]
    named = {os.path.relpath(path, folder): why for path, why in images.unreadable.items()}
    assert named == {
        "cat/1.jpg": "OSError: Truncated File Read",
        "dog/0.jpg": "the file is empty",
        "dog/lost.jpg": "no regular file",
        "dog/pipe.jpg": "no regular file",
    }
    write(folder / "cat" / "1.jpg", photo())  # mended, and left out as before
    assert all(map(torch.equal, images, batches))


def test_no_image_at_all_is_an_error(tmp_path):
    for name in ("1.jpg", "2.jpg"):
        write(tmp_path / name, BROKEN)
    images = folder_images(tmp_path)
    for _ in range(2):
        with pytest.raises(DataError, match=r"none of 2 images can be decoded: .*1\.jpg"):
            list(images)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no images in .*empty\. The names"):
        folder_images(tmp_path / "empty")
    with pytest.raises(DataError, match=r"cannot list the images in .*missing: No such file"):
        folder_images(tmp_path / "missing")


def test_links_are_followed_and_a_circle_is_an_error(folder, tmp_path):
    write(tmp_path / "elsewhere" / "1.jpg", photo(5))
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    assert "linked/1.jpg" in relative(folder_images(folder), folder)
    (folder / "dog" / "up").symlink_to(folder)
    with pytest.raises(DataError, match="are the same folder"):
        folder_images(folder)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"count": 0}, "expected a count of at least 1, got 0"),
        ({"size": 0}, "expected size and batch of at least 1, got size=0"),
        ({"batch": 0}, "got size=224, batch=0"),
        ({"mean": (0.5,)}, "expected three numbers as mean"),
        ({"std": (1, 1, float("nan"))}, "expected three numbers as std"),
        ({"std": (1, 0, 1)}, "expected a std above 0"),
        ({"mean": (123.7, 116.3, 103.5)}, "mean from 0 to 1, .* 255. Here it is 0.485, 0.456, 0.4"),
        ({"mean": (-0.1, 0.5, 0.5)}, "mean from 0 to 1, as of pixels in that range, got -0.1, 0.5"),
        ({"std": (58.4, 57.1, 57.4)}, "std from 0 to 1, .* Here it is 0.229, 0.224, 0.225"),
    ],
)
def test_what_is_no_choice_of_images(folder, wrong, message):
    with pytest.raises(ValueError, match=message):
        folder_images(folder, **wrong)


def test_the_defaults_are_imagenets(folder):
    given = folder_images(folder, mean=MEAN, std=STD)
    assert torch.equal(next(iter(folder_images(folder))), next(iter(given)))
