"""fashion-mnist-mini: the shipped file, and the script that makes it."""

import importlib.util
from pathlib import Path

import pytest
import torch

from groupnorm.data import DataError
from groupnorm.data.sets import fashion_mnist, fashion_mnist_mini
from tests.tolerances import PUBLISHED_MOMENTS

SCRIPT = Path(__file__).parents[3] / "scripts" / "make_fashion_mnist_mini.py"
FULL = Path("/usr/share/datasets/fashion-mnist")
needs_full = pytest.mark.skipif(not FULL.is_dir(), reason="needs the full Fashion-MNIST")


def test_contents():
    images = fashion_mnist_mini.load()
    assert images.train_images.shape == (10_000, 1, 28, 28)
    assert images.test_images.shape == (2_000, 1, 28, 28)
    # counts per class and mean of the first 10,000 images, known from the full set
    assert images.train_labels.bincount().sum() == 10_000
    assert images.train_labels[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    assert images.test_labels[:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]
    assert images.class_names[0] == "T-shirt/top"
    assert images.class_names[9] == "ankle boot"
    assert images.flip
    assert abs(float(images.mean) - 0.286) < PUBLISHED_MOMENTS
    assert abs(float(images.std) - 0.353) < PUBLISHED_MOMENTS


def test_size_and_licence():
    assert fashion_mnist_mini.FILE.stat().st_size < 6_000_000
    notice = (fashion_mnist_mini.FILE.parent / "FASHION_MNIST_LICENSE.txt").read_text()
    assert "Copyright (c) 2017 Zalando SE" in notice
    assert "Permission is hereby granted" in notice


@needs_full
def test_script_makes_the_file_byte_for_byte():
    spec = importlib.util.spec_from_file_location("make_fashion_mnist_mini", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.make(FULL) == fashion_mnist_mini.FILE.read_bytes()


@needs_full
def test_first_images_of_the_full_set():
    mini = fashion_mnist_mini.load()
    full = fashion_mnist.load(FULL)
    assert torch.equal(mini.train_images, full.train_images[:10_000])
    assert torch.equal(mini.train_labels, full.train_labels[:10_000])
    assert torch.equal(mini.test_images, full.test_images[:2_000])
    assert torch.equal(mini.test_labels, full.test_labels[:2_000])


@pytest.mark.parametrize("attempt", [fashion_mnist_mini.find, fashion_mnist_mini.load])
def test_missing_or_damaged(monkeypatch, tmp_path, attempt):
    path = tmp_path / "fashion_mnist_mini.bz2"
    good = fashion_mnist_mini.FILE.read_bytes()
    monkeypatch.setattr(fashion_mnist_mini, "FILE", path)
    with pytest.raises(DataError, match=r"cannot read .*mini\.bz2.*install groupnorm again"):
        attempt()
    path.write_bytes(good[:-100])
    with pytest.raises(DataError, match=r"mini\.bz2 is damaged.*install groupnorm again"):
        attempt()
