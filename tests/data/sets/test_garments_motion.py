"""garments-motion: contents, the mapped cache, and what is stated about the classes."""

import hashlib
import logging
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from groupnorm import data
from groupnorm.data.sets import garments_motion
from groupnorm.data.synthetic.cache import map_arrays, map_or_make
from tests.data.sets.scene_sources import cached_sources

COUNTS = {"train": 30, "test": 20}


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache, and few videos."""
    monkeypatch.setattr(garments_motion, "load_sources", cached_sources)
    monkeypatch.setattr(garments_motion, "COUNTS", COUNTS)
    monkeypatch.setenv("GROUPNORM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_official_numbers():
    assert garments_motion.COUNTS == {"train": 12_000, "test": 2_000}
    assert garments_motion.FRAMES == 20


@pytest.mark.parametrize(("name", "side"), [("garments-motion", 16), ("garments-motion-24", 24)])
def test_contents(cache, name, side):
    videos = data.load_video(name)
    assert (videos.name, videos.version) == (name, str(garments_motion.VERSION))
    assert videos.train_videos.shape == (30, 20, side, side, 3)
    assert videos.test_videos.shape == (20, 20, side, side, 3)
    assert videos.train_labels.bincount().tolist() == [3] * 10
    assert videos.test_labels.bincount().tolist() == [2] * 10
    assert videos.train_videos.float().std() > 30
    assert data.find(name) == str(cache / f"{name}-{garments_motion.VERSION}.bin")


def test_what_is_stated_about_the_classes(cache):
    videos = data.load_video("garments-motion")
    names = videos.class_names
    assert names == (
        "right", "left", "down", "up", "cw", "ccw", "swing", "shake", "near", "far",
    )  # fmt: skip
    flipped = {name: names[videos.flip_labels[k]] for k, name in enumerate(names)}
    changed = {name: other for name, other in flipped.items() if name != other}
    assert changed == {"right": "left", "left": "right", "cw": "ccw", "ccw": "cw"}
    aliases = 2
    ceiling = 100 * (len(names) - aliases / 2) / len(names)
    assert videos.ceilings == dict.fromkeys((2, 4, 6, 8, 10, 12, 14, 16, 18), ceiling)


def test_a_video_does_not_depend_on_how_many_are_made(cache):
    few, more = (garments_motion.make("train", count) for count in (3, 5))
    assert (more[:3] == few).all()
    assert (more[3] != more[4]).any()


def test_train_and_test_draw_from_their_own_sources(cache, monkeypatch):
    asked = []
    monkeypatch.setattr(
        garments_motion, "load_sources", lambda split: asked.append(split) or cached_sources(split)
    )
    videos = {split: garments_motion.make(split, 10) for split in COUNTS}
    assert asked == ["train", "test"]
    assert (videos["train"] != videos["test"]).any((1, 2, 3, 4)).all()
    train, test = (cached_sources(split) for split in COUNTS)
    assert len(train[1].labels) == 10_000
    assert len(test[1].labels) == 2_000
    assert (garments_motion.labels("train", 10) != garments_motion.labels("test", 10)).any()


def test_pixels_of_this_version(cache):
    """The recipe is pinned: when this digest changes, raise garments_motion.VERSION."""
    digest = hashlib.sha256()
    for variant in (garments_motion.QUICK, garments_motion.STANDARD):
        for split in COUNTS:
            digest.update(garments_motion.make(split, 4, variant).tobytes())
            digest.update(garments_motion.labels(split, 100, variant).tobytes())
    assert digest.hexdigest() == "a8c2ff477992c67a81d82bb2519411c0cc2cb3a3724ef65934277896fda78243"


@pytest.mark.slow
def test_all_pixels_of_this_version():
    digest = hashlib.sha256()
    for split, count in garments_motion.COUNTS.items():
        digest.update(garments_motion.make(split, count).data)
    assert digest.hexdigest() == "7c592caa277f55aabc5f0e8cd31954a4efd95efff0ae23a87c8bea2c25b9ef64"


def test_statistics_differ_strongly_from_video_to_video(cache):
    pixels = garments_motion.make("train", 200) / 255
    means, spreads = pixels.mean((1, 2, 3, 4)), pixels.std((1, 2, 3, 4))
    assert means.std() > 0.1
    low, high = np.quantile(spreads, [0.1, 0.9])
    assert high > 3 * low


def test_second_load_maps_the_cache(cache, monkeypatch):
    first = garments_motion.load()
    names = {path.name for path in cache.iterdir()}
    assert names == {"garments-motion-1.bin", ".garments-motion-1.lock"}
    monkeypatch.setattr(garments_motion, "make", None)
    second = garments_motion.load()
    assert torch.equal(first.train_videos, second.train_videos)
    assert torch.equal(first.test_videos, second.test_videos)
    second.train_videos[0] = 0  # stays in this process, and leaves the file as it is
    assert torch.equal(garments_motion.load().train_videos, first.train_videos)
    mapped = f"{cache}/garments-motion-1.bin"
    with open("/proc/self/maps", encoding="utf-8") as maps:
        assert any(mapped in line for line in maps)


@pytest.mark.parametrize("damage", ["truncated", "changed", "longer", "empty", "digest"])
def test_a_damaged_cache_is_made_again(cache, caplog, damage):
    first = garments_motion.load()
    path = garments_motion.QUICK.cache_file
    good = path.read_bytes()
    bad = {
        "truncated": good[:5000],
        "changed": good[:5000] + bytes([good[5000] ^ 1]) + good[5001:],
        "longer": good + b"\0",
        "empty": b"",
        "digest": b"0" * 64 + good[64:],
    }
    path.unlink()  # what is mapped stays as it is
    path.write_bytes(bad[damage])
    with caplog.at_level(logging.WARNING):
        second = garments_motion.load()
    assert "is damaged and will be made again" in caplog.text
    assert torch.equal(first.train_videos, second.train_videos)
    assert path.read_bytes() == good


def test_a_cache_that_cannot_be_written(cache, monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GROUPNORM_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        videos = garments_motion.load()
    assert len(videos.train_videos) == 30
    assert f"cannot keep {garments_motion.QUICK.cache_file}" in caplog.text


def test_a_full_disk_does_not_make_the_videos_twice(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError("disk full")

    made = []

    def make(name):
        made.append(name)
        return np.zeros((2, 3), np.uint8)

    monkeypatch.setattr("os.fsync", refuse)
    arrays = map_or_make(tmp_path / "set-1.bin", make, {"a": (2, 3)})
    assert arrays["a"].shape == (2, 3)
    assert made == ["a"]
    assert "disk full" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == [".set-1.lock"]


def test_arrays_are_mapped_in_their_order(tmp_path):
    shapes = {"a": (2, 3), "b": (4,)}
    made = {"a": np.arange(6, dtype=np.uint8).reshape(2, 3), "b": np.full(4, 9, np.uint8)}
    path = tmp_path / "new" / "set-1.bin"
    for _ in range(2):
        arrays = map_or_make(path, made.__getitem__, shapes)
        assert all((arrays[name] == made[name]).all() for name in shapes)
    assert path.read_bytes()[64:] == bytes([0, 1, 2, 3, 4, 5, 9, 9, 9, 9])
    assert map_arrays(path, {"a": (2, 3), "b": (5,)}) is None


def test_find_makes_nothing(cache, monkeypatch):
    monkeypatch.setattr(garments_motion, "make", None)
    assert "to be made on first use from photographs" in garments_motion.find()
    assert "garments-motion-24-1.bin, to be made" in garments_motion.find_24()
    assert not cache.exists()


MAKING = """
import sys
from groupnorm.data.sets import garments_motion
garments_motion.COUNTS = {"train": int(sys.argv[1]), "test": 20}
make = garments_motion.make
def counted(split, count, variant):
    print(split, flush=True)
    return make(split, count, variant)
garments_motion.make = counted
if sys.argv[2:]:
    import os
    os.fsync = lambda handle: (print("writing", flush=True), sys.stdin.read())
print(garments_motion.load().train_videos.sum().item())
"""


def making(count, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", MAKING, str(count), *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_one_of_two_processes_makes_it_and_the_other_waits(cache):
    both = [making(500) for _ in range(2)]
    said = [process.communicate(timeout=300)[0].split() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(len(words) for words in said) == [1, 3], "one of them made it"
    assert said[0][-1] == said[1][-1]


@pytest.mark.slow
def test_a_process_killed_while_it_writes_leaves_nothing_that_is_read(cache):
    process = making(300, "stop before the file is in its place")
    assert [process.stdout.readline().strip() for _ in range(3)] == ["train", "test", "writing"]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdin.close()
    process.stdout.close()
    assert not garments_motion.QUICK.cache_file.exists()
    assert len(list(cache.glob(".garments-motion-1.bin.*"))) == 1
    assert len(garments_motion.load().train_videos) == 30
    assert not list(cache.glob(".garments-motion-1.bin.*"))
