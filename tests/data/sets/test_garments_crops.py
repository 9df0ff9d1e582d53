"""garments-crops: contents, cache, and the garments of its two splits."""

import hashlib

import numpy as np
import pytest
import torch

from groupnorm.data import load
from groupnorm.data.sets import fashion_mnist_mini, garments_crops
from tests.data.sets.scene_sources import cached_sources


@pytest.fixture(autouse=True)
def _sources(monkeypatch):
    monkeypatch.setattr(garments_crops, "load_sources", cached_sources)


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("GROUPNORM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(garments_crops, "COUNTS", {"train": 12, "test": 8})
    return tmp_path / "cache"


def test_official_numbers():
    assert garments_crops.COUNTS == {"train": 10_000, "test": 2_000}
    assert garments_crops.CONFIG.canvas == (48, 48)


def test_contents(cache):
    crops = load("garments-crops")
    mini = fashion_mnist_mini.load()
    assert (crops.name, crops.version) == ("garments-crops", "1")
    assert crops.train_images.shape == (12, 3, 48, 48)
    assert crops.test_images.shape == (8, 3, 48, 48)
    assert torch.equal(crops.train_labels, mini.train_labels[:12])
    assert torch.equal(crops.test_labels, mini.test_labels[:8])
    assert (crops.num_classes, crops.flip) == (10, True)


def test_second_load_reads_the_cache(cache, monkeypatch):
    assert "to be made on first use" in garments_crops.find()
    first = garments_crops.load()
    assert garments_crops.find() == str(cache / "garments-crops-1.bin")
    monkeypatch.setattr(garments_crops, "make", None)
    assert torch.equal(garments_crops.load().train_images, first.train_images)


def test_a_damaged_cache_is_made_again(cache, caplog):
    first = garments_crops.load()
    garments_crops.cache_file().write_bytes(garments_crops.cache_file().read_bytes()[:-1])
    assert torch.equal(garments_crops.load().train_images, first.train_images)
    assert "is damaged and will be made again" in caplog.text


def test_a_crop_does_not_depend_on_how_many_are_made():
    few, _ = garments_crops.make("train", 2)
    more, _ = garments_crops.make("train", 3)
    assert (more[:2] == few).all()
    assert (more[1] != more[2]).any()
    assert more.dtype == np.uint8


def test_pixels_of_this_version():
    """The recipe is pinned: when this digest changes, raise garments_crops.VERSION."""
    digest = hashlib.sha256()
    for split in ("train", "test"):
        for part in garments_crops.make(split, 3):
            digest.update(part.tobytes())
    assert digest.hexdigest() == "6a1408282fc1895e2e2b1d2cb05866b048b5353814a067d91cb595eaa203398d"
