"""photo-patches: made once, whole, from separate regions; the path of image files reads them."""

import numpy as np
import pytest
import torch

from groupnorm import data
from groupnorm.data.batches import Step
from groupnorm.data.files.batches import FromFiles
from groupnorm.data.sets import photo_patches
from groupnorm.data.synthetic import photographs


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("GROUPNORM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_contents(cache):
    assert "to be made on first use" in photo_patches.find()
    files = data.load("photo-patches")
    assert photo_patches.find() == str(cache / "photo-patches-1")
    assert (len(files.train_paths), len(files.test_paths), files.num_classes) == (72, 24, 6)
    assert files.train_labels.tolist() == sorted(list(range(6)) * 12)
    assert data.load("photo-patches").version == files.version
    assert [path.name for path in cache.iterdir()] == ["photo-patches-1"]


def test_they_are_read_as_image_files(cache):
    batches = FromFiles(data.load("photo-patches"), 64, 16, 0, "cpu")
    ((images, labels),) = batches.train([Step(1, torch.tensor([0, 71]))])
    assert images.shape == (2, 3, 64, 64)
    assert labels.tolist() == [0, 5]
    assert sum(len(x) for x, _ in batches.test()) == 24
    assert not any(batches.data_issues().values())


def test_training_and_test_patches_share_no_pixel(monkeypatch):
    coordinates = np.zeros((200, 400, 3), np.uint8)
    regions = photographs.split(coordinates)
    regions["train"][:] = 1
    assert all((p == 1).all() for p in photo_patches.patches(regions["train"], 9, 0))
    assert all((p == 0).all() for p in photo_patches.patches(regions["test"], 9, 0))
    assert photo_patches.patches(regions["test"], 1, 0)[0].shape == (96, 96, 3)


def test_a_cache_that_cannot_be_written_is_an_error(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GROUPNORM_CACHE", str(tmp_path / "file"))
    with pytest.raises(data.DataError, match="set GROUPNORM_CACHE"):
        data.load("photo-patches")


def test_what_fails_in_the_middle_leaves_nothing(cache, monkeypatch):
    def fail(region, count, seed):
        raise KeyboardInterrupt

    monkeypatch.setattr(photo_patches, "patches", fail)
    with pytest.raises(KeyboardInterrupt):
        data.load("photo-patches")
    assert list(cache.iterdir()) == []
