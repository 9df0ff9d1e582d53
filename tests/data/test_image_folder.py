"""Any image folder: layout, order, and what is refused."""

import shutil

import pytest

from groupnorm import data
from groupnorm.data import DataError
from tests.data.image_trees import class_folders, write


@pytest.fixture
def root(tmp_path):
    class_folders(tmp_path / "set/train", ("dog", "Ant", "cat"), images=2)
    class_folders(tmp_path / "set/val", ("dog", "Ant", "cat"), images=1)
    return tmp_path / "set"


def test_classes_by_name_files_by_path(root):
    write(root / "train/cat/deeper/9.png", b"not decoded here")
    write(root / "train/cat/notes.txt", b"no image by its name")
    files = data.load("imagefolder", root)
    assert files.name == "imagefolder"
    assert files.class_names == ("Ant", "cat", "dog")
    inside = [path.removeprefix(f"{root}/train/") for path in files.train_paths]
    assert inside == [
        "Ant/0.jpg", "Ant/1.jpg",
        "cat/0.jpg", "cat/1.jpg", "cat/deeper/9.png",
        "dog/0.jpg", "dog/1.jpg",
    ]  # fmt: skip
    assert files.train_labels.tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert files.test_labels.tolist() == [0, 1, 2]


def test_val_before_test_and_test_without_val(root):
    class_folders(root / "test", ("dog", "Ant", "cat"), images=2)
    assert len(data.load("imagefolder", root).test_paths) == 3
    shutil.rmtree(root / "val")
    assert len(data.load("imagefolder", root).test_paths) == 6


def test_where_it_is_looked_for(root, monkeypatch, tmp_path):
    assert data.find("imagefolder", root) == str(root)
    root.rename(tmp_path / "imagefolder")
    assert data.find("imagefolder", tmp_path) == str(tmp_path / "imagefolder")
    monkeypatch.setenv("GROUPNORM_DATA", str(tmp_path))
    assert data.find("imagefolder") == str(tmp_path / "imagefolder")


def test_other_classes_in_the_splits(root):
    shutil.rmtree(root / "val/cat")
    class_folders(root / "val", ("zebra",), images=1)
    with pytest.raises(
        DataError,
        match=r"train has 3 classes and .*val has 3; .*first: cat; only in the second: zebra",
    ):
        data.load("imagefolder", root)


def test_a_class_without_images(root):
    for path in (root / "train/cat").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"cannot list the images in .*train.*cat"):
        data.load("imagefolder", root)
