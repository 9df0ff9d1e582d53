"""garments-motion-files: the pixels of garments-motion as real files, and clips of them."""

import logging

import numpy as np
import pytest
import torch

from groupnorm import data
from groupnorm.data import DataError
from groupnorm.data.batches import Step
from groupnorm.data.sets import garments_motion, garments_motion_files, kinetics
from groupnorm.data.video.clips import Sampling
from groupnorm.data.video.transforms import CropSizes
from tests.data.sets.scene_sources import cached_sources

pytest.importorskip("av")
from groupnorm.data.video.batches import FromVideoFiles
from groupnorm.data.video.decode import open_video
from tests.tolerances import FIVE_DIGITS

COUNTS = {"train": 20, "test": 10}


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setattr(garments_motion, "load_sources", cached_sources)
    monkeypatch.setattr(garments_motion, "COUNTS", COUNTS)
    monkeypatch.setenv("GROUPNORM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def decoded(path):
    with open_video(path) as video:
        return np.stack(list(video.frames(range(video.length))))


def test_the_files_hold_the_pixels_of_garments_motion(cache):
    assert "to be made on first use" in garments_motion_files.find()
    files, videos = data.load_video("garments-motion-files"), data.load_video("garments-motion")
    assert garments_motion_files.find() == str(cache / "garments-motion-files-v1")
    assert (files.train_size, files.test_size) == (20, 10)
    for split in ("train", "test"):
        paths, labels = getattr(files, f"{split}_paths"), getattr(files, f"{split}_labels")
        assert torch.equal(labels, getattr(videos, f"{split}_labels"))
        for path, label, pixels in zip(
            paths, labels, getattr(videos, f"{split}_videos"), strict=True
        ):
            assert (decoded(path) == pixels.numpy()).all()
            assert path.split("/")[-2] == videos.class_names[label]
    assert files.class_names == videos.class_names
    assert (files.version, files.flip_labels) == (videos.version, videos.flip_labels)


def test_the_layout_is_that_of_kinetics(cache):
    files = garments_motion_files.load()
    read = kinetics.load(cache / "garments-motion-files-v1")
    assert sorted(read.train_paths) == sorted(files.train_paths)
    assert sorted(read.test_paths) == sorted(files.test_paths)
    assert read.class_names == tuple(sorted(files.class_names))
    assert read.notes == ()


def test_clips_of_the_files_are_those_in_memory():
    """Whole frames, normalized by mean and deviation of garments-motion."""
    files, videos = garments_motion_files.load(), garments_motion.load()
    sampling = Sampling(8, 2)
    batches = FromVideoFiles(files, sampling, CropSizes.whole(files.frame_size), test_clips=1)
    mean, std = (torch.tensor(x) for x in (files.mean, files.std))
    for number, clips in enumerate(batches.test()):
        pixels = (clips.inputs[0].permute(1, 2, 3, 0) * std + mean) * 255
        expected = videos.test_videos[number, 2:18:2]
        assert torch.equal(pixels.round().to(torch.uint8), expected)
        assert clips.labels.tolist() == [videos.test_labels[number].item()]
    ((inputs, labels),) = batches.train([Step(3, torch.arange(20))])
    assert inputs.shape == (20, 3, 8, 16, 16)
    straight = flipped = 0
    for index, (clip, label) in enumerate(zip(inputs, labels.tolist(), strict=True)):
        pixels = ((clip.permute(1, 2, 3, 0) * std + mean) * 255).round().to(torch.uint8)
        video, own = videos.train_videos[index], videos.train_labels[index].item()
        windows = [video[start : start + 16 : 2] for start in range(5)]
        if any(torch.equal(pixels, window) for window in windows):
            straight += 1
            assert label == own
        elif any(torch.equal(pixels, window.flip(2)) for window in windows):
            flipped += 1
            assert label == garments_motion.FLIP_LABELS[own]
    assert straight + flipped == 20
    assert min(straight, flipped) > 3
    assert not any(batches.data_issues().values())


@pytest.mark.slow
def test_mean_and_deviation_are_those_of_garments_motion(monkeypatch):
    monkeypatch.setattr(garments_motion, "COUNTS", {"train": 12_000, "test": 20})
    videos = garments_motion.load()
    assert videos.mean.tolist() == pytest.approx(garments_motion_files.MEAN, abs=FIVE_DIGITS)
    assert videos.std.tolist() == pytest.approx(garments_motion_files.STD, abs=FIVE_DIGITS)


def test_a_damaged_file_is_made_again(cache, caplog, monkeypatch):
    files = garments_motion_files.load()
    with open(files.train_paths[3], "rb") as file:
        good = file.read()
    with open(files.train_paths[3], "wb") as file:
        file.write(good[:900] + bytes([good[900] ^ 1]) + good[901:])
    with caplog.at_level(logging.WARNING):
        garments_motion_files.load()
    assert "is damaged and will be made again" in caplog.text
    with open(files.train_paths[3], "rb") as file:
        assert file.read() == good
    monkeypatch.setattr(garments_motion_files, "write", None)
    assert garments_motion_files.load().train_paths == files.train_paths


def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GROUPNORM_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"garments-motion-files cannot be made in .*set GROUPNORM"):
        garments_motion_files.load()
