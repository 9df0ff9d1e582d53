"""Any image folder: layout, order, and what is refused."""

import contextlib
import os
import shutil
from pathlib import Path

import pytest

from groupnorm import data
from groupnorm.data import DataError
from groupnorm.data.files import class_folders as class_folders_module
from groupnorm.data.issues import first_few
from tests.data.files.image_trees import class_folders, write


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


def test_a_test_class_that_is_not_trained_on(root):
    class_folders(root / "val", ("zebra",), images=1)
    with pytest.raises(DataError, match=r"val has classes that .*train has not: zebra"):
        data.load("imagefolder", root)


def test_a_test_folder_with_some_of_the_classes_is_noted(root):
    shutil.rmtree(root / "val/cat")
    files = data.load("imagefolder", root)
    assert files.test_labels.tolist() == [0, 2]  # Ant and dog, as in train/
    assert files.notes == (
        f"{root}/val has images of 2 of the 3 classes; the error is over those, without cat",
    )


def test_a_class_without_images(root):
    for path in (root / "train/cat").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"no images in .*train.cat. The names of images end in"):
        data.load("imagefolder", root)
    write(root / "train/cat/1.heic", b"")
    write(root / "train/cat/2.HEIC", b"")
    with pytest.raises(DataError, match=r"train.cat, but 2 files \(.heic 2\)\."):
        data.load("imagefolder", root)


def test_classes_and_version_do_not_depend_on_the_locale(root, monkeypatch):
    """An ASCII locale has the bytes of other letters as surrogates."""
    for split in ("train", "val"):
        (root / split / "dog").rename(root / split / "Äffchen")
        (root / split / "cat").rename(root / split / "éléphant")
    expected = data.load("imagefolder", root)
    assert expected.class_names == ("Ant", "Äffchen", "éléphant")
    ascii_root = os.fsencode(root).decode("ascii", "surrogateescape")
    scandir = os.scandir

    class InAscii:
        def __init__(self, entry):
            self.name, self.path = (
                os.fsencode(text).decode("ascii", "surrogateescape")
                for text in (entry.name, entry.path)
            )
            self.is_dir, self.is_symlink = entry.is_dir, entry.is_symlink

    @contextlib.contextmanager
    def scan(folder):
        with scandir(folder) as entries:
            yield [InAscii(entry) for entry in entries]

    monkeypatch.setattr(class_folders_module.os, "scandir", scan)
    files = data.load("imagefolder", Path(ascii_root))
    assert files.class_names == expected.class_names
    assert files.version == expected.version
    assert files.train_labels.equal(expected.train_labels)
    assert files.shown(files.train_paths[2]) == "train/Äffchen/0.jpg"


def test_a_single_class(tmp_path):
    for split in ("train", "val"):
        class_folders(tmp_path / split, ("cat",), images=2)
    with pytest.raises(DataError, match=r"has a single class, cat; a classifier needs two"):
        data.load("imagefolder", tmp_path)


def test_no_class_folders(root):
    shutil.rmtree(root / "train")
    write(root / "train/0.jpg", b"")
    with pytest.raises(DataError, match=r"no class folders, but 1 image in it directly.*<class>"):
        data.load("imagefolder", root)


def test_hidden_files_and_those_of_operating_systems_are_neither_images_nor_classes(root):
    before = data.load("imagefolder", root)
    for name in (
        "train/cat/._0.jpg", "train/cat/.DS_Store", "train/cat/Thumbs.db",
        "train/cat/.ipynb_checkpoints/0-checkpoint.jpg", "train/cat/@eaDir/0.jpg",
        "train/.ipynb_checkpoints/0.jpg", "train/@eaDir/0.jpg", "train/lost+found/0.jpg",
        "train/__MACOSX/cat/0.jpg", "val/.hidden/0.jpg", "val/.DS_Store",
    ):  # fmt: skip
        write(root / name, b"")
    files = data.load("imagefolder", root)
    assert (files.version, files.class_names) == (before.version, ("Ant", "cat", "dog"))
    assert files.notes == ()


def test_files_left_out_because_of_their_ending_are_counted(root):
    names = ["a.heic", "b.HEIC", "c.avif", "d.gif", "e.jfif", "deeper/f.heic", "README"]
    for name in names:
        write(root / "train/cat" / name, b"")
    write(root / "val/dog/notes.txt", b"")
    write(root / "train/stray.png", b"")
    assert data.load("imagefolder", root).notes == (
        f"left out: 1 image in {root}/train itself, outside of the class folders",
        f"left out because of the ending of the name: 7 files in {root}/train "
        "(.heic 3, none 1, .avif 1, .gif 1, .jfif 1)",
        f"left out because of the ending of the name: 1 file in {root}/val (.txt 1)",
    )


@pytest.mark.parametrize(
    ("target", "link", "message"),
    [
        ("..", "train/cat/loop", r"set.train and .*cat.loop are the same folder, .*Remove the li"),
        ("../..", "train/cat/loop", r"cat.loop is a link to .*set, which holds .*set.train itself"),
        (".", "train/cat/loop", r"train.cat and .*train.cat.loop are the same folder"),
        ("../dog", "train/cat/more", r"cat.more and .*train.dog are the same folder"),
        ("dog", "train/wolf", r"train.dog and .*train.wolf are the same folder"),
        ("../../val/cat", "train/cat/more", r"train.cat.more and .*val.cat are the same folder"),
        ("../dog/0.jpg", "train/cat/9.jpg", r"cat.9.jpg and .*dog.0.jpg are the same file"),
        ("../../val/cat/0.jpg", "train/cat/9.jpg", r"cat.9.jpg and .*val.cat.0.jpg are the same f"),
    ],
)
def test_what_is_met_twice_by_way_of_a_link_is_refused(root, target, link, message):
    (root / link).symlink_to(target)
    with pytest.raises(DataError, match=message):
        data.load("imagefolder", root)


def test_both_splits_in_one_folder_are_refused(root):
    shutil.rmtree(root / "val")
    (root / "val").symlink_to("train")
    with pytest.raises(DataError, match=r"set.train and .*set.val are the same folder"):
        data.load("imagefolder", root)


def test_links_that_lead_elsewhere_are_followed(root, tmp_path):
    """A class that lies on another disk, and an image that its own class has twice."""
    (root / "train/cat").rename(tmp_path / "cats")
    (root / "train/cat").symlink_to(tmp_path / "cats")
    before = data.load("imagefolder", root)
    assert before.train_labels.tolist() == [0, 0, 1, 1, 2, 2]
    (root / "train/cat/again.jpg").symlink_to("0.jpg")
    assert data.load("imagefolder", root).train_labels.tolist() == [0, 0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("splits", "hint"),
    [
        (("train", "valid"), "train/, valid/: rename valid/ to val/."),
        (("train", "validation"), "train/, validation/: rename validation/ to val/."),
        (("Train", "Val"), "Train/, Val/: rename Train/ to train/ and Val/ to val/."),
        (("training", "test"), "test/, training/: rename training/ to train/."),
        (("train",), "train/: val/ or test/ is missing."),
        (("val", "test"), "test/, val/: train/ is missing."),
    ],
)
def test_folders_of_other_names_get_a_hint(tmp_path, splits, hint):
    for split in splits:
        (tmp_path / "set" / split).mkdir(parents=True)
    (tmp_path / "set/.cache").mkdir()
    with pytest.raises(DataError) as caught:
        data.find("imagefolder", tmp_path / "set")
    assert f"There is {tmp_path}/set with {hint}\n" in str(caught.value)


@pytest.mark.parametrize(
    ("count", "text"),
    [(1, "0"), (3, "0, 1, 2"), (4, "0, 1, 2 and 1 more"), (2000, "0, 1, 2 and 1,997 more")],
)
def test_of_many_names_the_first_few_are_said(count, text):
    assert first_few(list(map(str, range(count))), 3) == text
