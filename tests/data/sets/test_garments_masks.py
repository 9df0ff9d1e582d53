"""garments-masks: contents, cache, and what the maps say."""

import hashlib

import numpy as np
import pytest
import torch

from groupnorm import data
from groupnorm.data.sets import fashion_mnist_mini, garments_masks
from groupnorm.data.synthetic.scenes import make_scene
from tests.data.sets.scene_sources import cached_sources

COUNTS = {"train": 12, "test": 8}


@pytest.fixture(autouse=True)
def _sources(monkeypatch):
    monkeypatch.setattr(garments_masks, "load_sources", cached_sources)


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("GROUPNORM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(garments_masks, "COUNTS", COUNTS)
    return tmp_path / "cache"


def test_each_garment_is_in_one_scene_at_most():
    most = garments_masks.CONFIG.garments[1]
    assert garments_masks.COUNTS == {"train": 5_000, "test": 1_000}
    assert garments_masks.COUNTS["train"] * most == fashion_mnist_mini.NUM_TRAIN
    assert garments_masks.COUNTS["test"] * most == fashion_mnist_mini.NUM_TEST


def test_contents(cache):
    scenes = data.load_segmentation("garments-masks")
    assert (scenes.name, scenes.version) == ("garments-masks", str(garments_masks.VERSION))
    assert scenes.train_images.shape == (12, 3, 32, 32)
    assert scenes.test_maps.shape == (8, 32, 32)
    assert scenes.class_names == ("background", *fashion_mnist_mini.CLASS_NAMES)
    mini = fashion_mnist_mini.load()
    for split, labels in (("train", mini.train_labels), ("test", mini.test_labels)):
        for index, found in enumerate(getattr(scenes, f"{split}_maps")):
            there = set(found.unique().tolist()) - {0}
            assert there, "a scene has a garment"
            assert there <= {int(label) + 1 for label in labels[2 * index : 2 * index + 2]}
    background = (scenes.train_maps == 0).float().mean()
    assert 0.6 < background < 0.9


def test_a_map_says_which_garment_each_pixel_shows():
    backgrounds, garments = cached_sources("train")
    config, hidden = garments_masks.CONFIG, 0
    for index in range(30):
        scene = make_scene(7, index, config, backgrounds, garments)
        found = garments_masks.label_map(scene)
        for label, mask, area in zip(scene.labels, scene.masks[0], scene.areas[0], strict=True):
            assert (found[mask] == label + 1).all()
            hidden += int(area) - int(mask.sum())
        assert (found[~scene.masks[0].any(0)] == 0).all()
    assert hidden > 0, "no garment was in front of another"


def test_second_load_reads_the_cache(cache, monkeypatch):
    assert "to be made on first use" in data.find("garments-masks")
    first = garments_masks.load()
    assert garments_masks.find() == str(cache / f"garments-masks-{garments_masks.VERSION}.bin")
    monkeypatch.setattr(garments_masks, "make", None)
    again = garments_masks.load()
    assert torch.equal(again.train_images, first.train_images)
    assert torch.equal(again.test_maps, first.test_maps)


def test_a_scene_does_not_depend_on_how_many_are_made():
    few, _ = garments_masks.make("train", 2)
    more, maps = garments_masks.make("train", 3)
    assert (more[:2] == few).all()
    assert (more[1] != more[2]).any()
    assert more.dtype == maps.dtype == np.uint8


def test_pixels_of_this_version():
    """The recipe is pinned: when this digest changes, raise garments_masks.VERSION."""
    digest = hashlib.sha256()
    for split in COUNTS:
        for part in garments_masks.make(split, 3):
            digest.update(part.tobytes())
    assert digest.hexdigest() == "7912626d45335a45d6753d827fcac438dbc9d5028f26a031e164a5bba4687c2b"
