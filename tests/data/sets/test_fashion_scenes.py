"""fashion-scenes: contents, cache, and what happens when something is missing or damaged."""

import logging

import numpy as np
import pytest
import torch

from groupnorm.data import DataError
from groupnorm.data.sets import fashion_mnist_mini, fashion_scenes
from groupnorm.data.synthetic import photographs

COUNTS = {"train": 60, "test": 40}


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache, and few scenes."""
    monkeypatch.setenv("GROUPNORM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fashion_scenes, "COUNTS", COUNTS)
    return tmp_path / "cache"


@pytest.fixture
def quick(monkeypatch):
    """Noise in place of scenes: the cache does not look at the pixels."""

    def noise(split, count):
        rng = np.random.default_rng(count)
        images = rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
        return images, rng.integers(0, 10, count)

    monkeypatch.setattr(fashion_scenes, "make", noise)


@pytest.fixture
def no_making(monkeypatch):
    def fail(split, count):
        raise AssertionError("made again")

    monkeypatch.setattr(fashion_scenes, "make", fail)


def test_contents(cache):
    scenes = fashion_scenes.load()
    garments = fashion_mnist_mini.load()
    assert (scenes.name, scenes.version) == ("fashion-scenes", str(fashion_scenes.VERSION))
    assert scenes.train_images.shape == (60, 3, 32, 32)
    assert scenes.test_images.shape == (40, 3, 32, 32)
    assert torch.equal(scenes.train_labels, garments.train_labels[:60])
    assert torch.equal(scenes.test_labels, garments.test_labels[:40])
    assert (scenes.flip, scenes.pad, scenes.num_classes) == (True, 2, 10)


def test_scenes_of_the_same_garment_have_one_source(cache, quick, monkeypatch):
    monkeypatch.setattr(fashion_scenes, "COUNTS", {"train": 12_000, "test": 40})
    sources = fashion_scenes.load().sources
    garments = [fashion_scenes.CONFIG.garments[1] * i % 10_000 for i in range(12_000)]
    assert sources.tolist() == garments


def test_official_numbers():
    assert fashion_scenes.COUNTS == {"train": 12_000, "test": 4_000}


def test_a_scene_does_not_depend_on_how_many_are_made():
    few, _ = fashion_scenes.make("train", 3)
    more, labels = fashion_scenes.make("train", 5)
    assert (more[:3] == few).all()
    assert (more[3] != more[4]).any()
    assert more.dtype == np.uint8
    assert labels.dtype == np.int64


def test_statistics_differ_strongly_from_image_to_image():
    images, _ = fashion_scenes.make("train", 400)
    pixels = images / 255
    means, spreads = pixels.mean((1, 2, 3)), pixels.std((1, 2, 3))
    assert means.std() > 0.12
    low, high = np.quantile(spreads, [0.1, 0.9])
    assert high > 3 * low


def test_second_load_reads_the_cache(cache, quick, monkeypatch):
    first = fashion_scenes.load()
    assert [path.name for path in cache.iterdir()] == [fashion_scenes.cache_file().name]
    monkeypatch.setattr(fashion_scenes, "make", None)
    second = fashion_scenes.load()
    for part in ("train_images", "train_labels", "test_images", "test_labels"):
        assert torch.equal(getattr(first, part), getattr(second, part))


@pytest.mark.parametrize("damage", ["truncated", "changed", "empty"])
def test_a_damaged_cache_is_made_again(cache, quick, caplog, damage):
    first = fashion_scenes.load()
    path = fashion_scenes.cache_file()
    good = path.read_bytes()
    bad = {"truncated": good[:5000], "changed": good[:5000] + b"?" + good[5001:], "empty": b""}
    path.write_bytes(bad[damage])
    with caplog.at_level(logging.WARNING):
        second = fashion_scenes.load()
    assert "is damaged and will be made again" in caplog.text
    assert torch.equal(first.train_images, second.train_images)
    assert path.read_bytes() == good


def test_a_cache_that_cannot_be_written(quick, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(fashion_scenes, "COUNTS", COUNTS)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GROUPNORM_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        scenes = fashion_scenes.load()
    assert len(scenes.train_images) == 60
    assert f"cannot keep {fashion_scenes.cache_file()}" in caplog.text


def test_find_makes_nothing(cache, no_making):
    assert "to be made on first use from photographs" in fashion_scenes.find()
    assert not cache.exists()
    cache.mkdir()
    fashion_scenes.cache_file().write_bytes(b"")
    assert fashion_scenes.find() == str(fashion_scenes.cache_file())


def test_missing_package(cache, monkeypatch):
    monkeypatch.setattr(photographs, "find_spec", lambda name: None)
    for attempt in (fashion_scenes.find, fashion_scenes.load):
        with pytest.raises(DataError, match=r"astronaut\.png.*skimage.*pip install 'groupnorm\["):
            attempt()


def test_missing_and_wrong_photograph(monkeypatch, tmp_path):
    package = tmp_path / "skimage"
    package.mkdir()

    class Spec:
        submodule_search_locations = (str(package),)

    monkeypatch.setattr(photographs, "find_spec", lambda name: Spec)
    with pytest.raises(DataError, match=r"photograph .*astronaut\.png is missing"):
        photographs.find()
    for _, name, _ in photographs.PHOTOGRAPHS:
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_bytes(b"another picture")
    with pytest.raises(DataError, match=r"astronaut\.png is damaged or another file"):
        photographs.load()


def test_regions_share_no_pixel_and_lose_none():
    for photograph in photographs.load():
        assert photograph.dtype == np.uint8
        parts = photographs.split(photograph)
        assert (np.concatenate([parts["train"], parts["test"]], axis=1) == photograph).all()
        assert min(*parts["train"].shape[:2], *parts["test"].shape[:2]) > 128


def test_train_and_test_draw_from_their_own_region_and_garments(monkeypatch):
    """The photograph's left is white and its right is black; so are the two backgrounds."""
    picture = np.zeros((64, 100, 3), np.uint8)
    picture[:, :60] = 255
    monkeypatch.setattr(photographs, "load", lambda: [picture])
    tables = {}
    real = fashion_scenes.make_scene

    def watch(key, index, config, backgrounds, garments):
        tables[key] = backgrounds[0], garments.labels
        return real(key, index, config, backgrounds, garments)

    monkeypatch.setattr(fashion_scenes, "make_scene", watch)
    fashion_scenes.make("train", 1)
    fashion_scenes.make("test", 1)
    assert len(tables) == 2, "the two splits have different keys"
    (train, train_labels), (test, test_labels) = tables.values()
    assert train[-1, -1, 0] == 255 * 64 * 60
    assert test[-1, -1, 0] == 0
    mini = fashion_mnist_mini.load()
    assert (train_labels == mini.train_labels.numpy()).all()
    assert (test_labels == mini.test_labels.numpy()).all()
