"""Lists of image files: the version, and what is refused."""

import os

import pytest
import torch

from groupnorm.data import DataError, ImageFiles
from groupnorm.data.files.listing import list_files
from tests.data.files.image_trees import write


def listing(root):
    return (
        [(write(root / f"train/{i}.jpg", b"x" * (i + 1)), i % 2) for i in range(3)],
        [(write(root / "val/0.jpg", b"y"), 1)],
    )


def test_lists(tmp_path):
    files = list_files("toy", tmp_path, *listing(tmp_path), ["a", "b"])
    assert files.train_paths == tuple(str(tmp_path / f"train/{i}.jpg") for i in range(3))
    assert files.train_labels.tolist() == [0, 1, 0]
    assert files.test_labels.tolist() == [1]
    assert (files.num_classes, files.channels) == (2, 3)


def test_version_follows_from_what_is_listed_and_not_from_where_it_lies(tmp_path):
    versions = {}
    for place in ("here", "there/deeper"):
        train, test = listing(tmp_path / place)
        versions[place] = list_files("toy", tmp_path / place, train, test, ["a", "b"]).version
    assert len(set(versions.values())) == 1
    root = tmp_path / "here"
    train, test = listing(root)

    def version(train=train, test=test, classes=("a", "b")):
        return list_files("toy", root, train, test, classes).version

    original = version()
    changed = [
        version(train=train[:2]),
        version(train=[train[1], train[0], train[2]]),
        version(train=[(train[0][0], 1), *train[1:]]),
        version(test=[*test, train[0]]),
        version(classes=("a", "c")),
    ]
    write(root / "train/0.jpg", b"longer")
    changed.append(version())
    assert len({original, *changed}) == 7


def test_files_must_be_there_and_regular(tmp_path):
    train, test = listing(tmp_path)
    with pytest.raises(DataError, match=r"cannot read .*gone.jpg: No such file"):
        list_files("toy", tmp_path, [*train, (str(tmp_path / "gone.jpg"), 0)], test, ["a", "b"])
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(DataError, match=r"pipe.jpg is not a regular file"):
        list_files("toy", tmp_path, [*train, (str(tmp_path / "pipe.jpg"), 0)], test, ["a", "b"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_paths": (), "train_labels": torch.zeros(0).long()}, "train: expected at least"),
        ({"test_labels": torch.tensor([0, 1])}, r"test: expected 1 int64 labels, got .*\(2,\)"),
        ({"test_labels": torch.tensor([0.0])}, "got torch.float32"),
        ({"train_labels": torch.tensor([0, 2])}, "labels from 0 to 1, got 0 to 2"),
        ({"train_labels": torch.tensor([-1, 1])}, "got -1 to 1"),
    ],
)
def test_wrong_fields_are_refused(changes, message):
    fields = {
        "name": "toy",
        "version": "1",
        "train_paths": ("a", "b"),
        "train_labels": torch.tensor([0, 1]),
        "test_paths": ("c",),
        "test_labels": torch.tensor([0]),
        "class_names": ("x", "y"),
    }
    with pytest.raises(DataError, match=message):
        ImageFiles(**{**fields, **changes})


def toy(classes, root="", **fields):
    """Files of a list sorted by class, as many of each class as `classes` says."""
    labels = [label for label, count in enumerate(classes) for _ in range(count)]
    return ImageFiles(
        name="toy",
        version="1",
        train_paths=tuple(f"{label}/{number}.jpg" for number, label in enumerate(labels)),
        train_labels=torch.tensor(labels),
        test_paths=("test/0.jpg",),
        test_labels=torch.tensor([0]),
        class_names=tuple(map(str, range(len(classes)))),
        root=root,
        **fields,
    )


def test_a_sample_has_the_same_share_of_every_class():
    files = toy([40, 20, 30, 10])
    assert files.sample_train(None) is files
    sample = files.sample_train(50)
    assert torch.bincount(sample.train_labels).tolist() == [20, 10, 15, 5]
    assert all(
        path.startswith(f"{label}/")
        for path, label in zip(sample.train_paths, sample.train_labels.tolist(), strict=True)
    )
    numbers = [int(path.split("/")[1].split(".")[0]) for path in sample.train_paths]
    assert numbers == sorted(set(numbers))
    assert numbers[:20] != list(range(20))
    assert sample.train_paths == files.sample_train(50).train_paths, "the same each time"
    assert set(files.sample_train(20).train_paths) < set(sample.train_paths)
    assert sample.test_paths == files.test_paths
    counts = torch.bincount(files.sample_train(37).train_labels).double()
    assert (counts - 0.37 * torch.tensor([40, 20, 30, 10])).abs().max() < 1
    assert files.sample_train(100).train_paths == files.train_paths
    with pytest.raises(ValueError, match="train_images=101, but toy has 100 of them"):
        files.sample_train(101)


def test_a_sample_smaller_than_the_number_of_classes_is_of_random_ones():
    labels = toy([5] * 100).sample_train(10).train_labels.tolist()
    assert len(set(labels)) == 10
    assert labels != list(range(10))


def test_paths_are_shown_below_the_root_in_utf8(tmp_path):
    files = toy([1, 1], root=str(tmp_path))
    assert files.shown(str(tmp_path / "train" / "a.jpg")) == "train/a.jpg"
    assert files.shown(str(tmp_path / "\udcff.jpg")) == "\\xff.jpg"
    assert toy([1, 1]).shown("train/a.jpg") == "train/a.jpg"
