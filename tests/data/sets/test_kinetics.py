"""Kinetics' layout: what is a video, of which class, and what is refused."""

import shutil

import pytest

from groupnorm import data
from groupnorm.data import DataError
from groupnorm.data.video.listing import VideoFiles
from tests.data.files.image_trees import write

CLASSES = ("abseiling", "Zumba", "air drumming")


@pytest.fixture
def root(tmp_path):
    for split, count in (("train", 2), ("val", 1)):
        for name in CLASSES:
            for number in range(count):
                ending = ("mp4", "MKV")[number]
                write(tmp_path / "k400" / split / name / f"{number}.{ending}", b"not decoded here")
    return tmp_path / "k400"


def test_classes_by_name_files_by_path(root):
    for ending in ("avi", "webm"):
        write(root / f"train/abseiling/deeper/9.{ending}", b"")
    files = data.load_video("kinetics", root)
    assert isinstance(files, VideoFiles)
    assert (files.name, files.class_names) == ("kinetics", ("Zumba", "abseiling", "air drumming"))
    assert [files.shown(path) for path in files.train_paths[:6]] == [
        "train/Zumba/0.mp4", "train/Zumba/1.MKV", "train/abseiling/0.mp4",
        "train/abseiling/1.MKV", "train/abseiling/deeper/9.avi", "train/abseiling/deeper/9.webm",
    ]  # fmt: skip
    assert files.train_labels.tolist() == [0, 0, 1, 1, 1, 1, 2, 2]
    assert files.test_labels.tolist() == [0, 1, 2]
    assert files.flip_labels == (0, 1, 2)
    assert (files.mean, files.std, files.notes) == (None, None, ())


def test_what_is_no_video_is_counted_and_named(root):
    write(root / "train/Zumba/notes.txt", b"")
    write(root / "train/Zumba/0.mp4.part", b"")
    write(root / "train/stray.mp4", b"")
    write(root / "val/Zumba/.DS_Store", b"")
    assert data.load_video("kinetics", root).notes == (
        f"left out: 1 video in {root}/train itself, outside of the class folders",
        f"left out because of the ending of the name: 2 files in {root}/train (.part 1, .txt 1)",
    )


def test_where_it_is_looked_for(root, tmp_path, monkeypatch):
    assert data.find("kinetics", root) == str(root)
    assert data.find("kinetics", tmp_path) == str(root)
    monkeypatch.setenv("GROUPNORM_DATA", str(tmp_path))
    assert data.find("kinetics") == str(root)
    (root / "val").rename(root / "test")
    assert len(data.load_video("kinetics", root).test_paths) == 3
    (root / "test").rename(root / "validation")
    with pytest.raises(DataError, match=r"(?s)^kinetics \(train/<class>.*There is .*k400 with train"
                       r"/, validation/: rename validation/ to val/.*Get it with"):  # fmt: skip
        data.find("kinetics", root)


def test_the_version_follows_the_files_and_not_where_they_lie(root, tmp_path):
    version = data.load_video("kinetics", root).version
    root.rename(tmp_path / "kinetics")
    moved = tmp_path / "kinetics"
    assert data.load_video("kinetics", moved).version == version
    write(moved / "train/Zumba/0.mp4", b"another length")
    assert data.load_video("kinetics", moved).version != version


def test_a_class_without_videos(root):
    shutil.rmtree(root / "train/Zumba")
    write(root / "train/Zumba/1.jpg", b"")
    with pytest.raises(DataError, match=r"^no videos in .*train/Zumba, but 1 file \(.jpg 1\). The "
                       r"names of videos end in .mp4, .mkv, .avi, .webm$"):  # fmt: skip
        data.load_video("kinetics", root)


def test_classes_that_differ(root):
    shutil.rmtree(root / "val/Zumba")
    assert "val has videos of 2 of the 3 classes" in data.load_video("kinetics", root).notes[0]
    write(root / "val/yoga/0.mp4", b"")
    with pytest.raises(DataError, match=r"val has classes that .*train has not: yoga"):
        data.load_video("kinetics", root)


def test_a_single_class(root):
    for split in ("train", "val"):
        for name in CLASSES[:2]:
            shutil.rmtree(root / split / name)
    with pytest.raises(DataError, match=r"has a single class, air drumming; .* a folder of videos"):
        data.load_video("kinetics", root)


def test_a_video_that_is_linked_into_both_splits(root):
    (root / "val/Zumba/9.mp4").symlink_to("../../train/Zumba/0.mp4")
    with pytest.raises(DataError, match=r"are the same file, .* in two classes or splits"):
        data.load_video("kinetics", root)


def test_samples_and_what_is_held_out_are_videos(root):
    files = data.load_video("kinetics", root)
    held = files.hold_out(3)
    assert isinstance(held, VideoFiles)
    assert (held.train_size, held.test_size, held.flip_labels) == (3, 3, (0, 1, 2))
    assert "3 validation videos, held out of the training videos" in held.notes[-1]
    assert isinstance(files.sample_train(3), VideoFiles)
    assert files.sample_train(3).train_size == 3
