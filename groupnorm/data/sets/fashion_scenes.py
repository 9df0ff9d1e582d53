"""fashion-scenes: Fashion-MNIST garments on real photographs, 32x32 colour, made on first use.

12,000 training scenes from the 10,000 training garments of fashion-mnist-mini, 4,000 test scenes
from its 2,000 test garments, each twice. Training and test scenes share no garment, and their
backgrounds come from separate regions of the photographs. Mean and spread differ strongly from
image to image, as in natural photographs, so that statistics over a small batch are poor ones.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from groupnorm.data.memory.image_set import ImageSet
from groupnorm.data.paths import cache_folder
from groupnorm.data.sets import fashion_mnist_mini
from groupnorm.data.synthetic.cache import load_or_make
from groupnorm.data.synthetic.scenes import SceneConfig, make_scene
from groupnorm.data.synthetic.sources import find_sources, load_sources

NAME = "fashion-scenes"
VERSION = 1  # raise it with every change of the pixels
COUNTS = {"train": 12_000, "test": 4_000}
CONFIG = SceneConfig()


def cache_file() -> Path:
    """Where the finished data set is kept; the name holds the version."""
    return cache_folder() / f"{NAME}-{VERSION}.bin"


def find(root: Path | None = None) -> str:
    """Where the scenes are, or what they will be made from; `root` is not needed.

    Raises:
        DataError: the scenes are not in the cache, and a photograph or the garments are missing.
    """
    path = cache_file()
    if path.is_file():
        return str(path)
    return f"{path}, to be made on first use from photographs in {find_sources()}"


def load(root: Path | None = None) -> ImageSet:
    """32x32 colour scenes with one garment each; `root` is not needed.

    They are read from the cache, or made (a few seconds) and cached. A damaged cache is made again;
    where the cache cannot be written, the scenes are made each time and a warning is logged.

    Raises:
        DataError: a photograph or the garments are missing or damaged.
    """
    parts = [torch.from_numpy(part) for part in load_or_make(cache_file(), make, COUNTS)]
    return ImageSet(
        name=NAME,
        version=str(VERSION),
        train_images=parts[0],
        train_labels=parts[1],
        test_images=parts[2],
        test_labels=parts[3],
        class_names=fashion_mnist_mini.CLASS_NAMES,
        flip=True,
        pad=2,
        sources=torch.arange(len(parts[1])) % fashion_mnist_mini.NUM_TRAIN,
    )


def make(split: str, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The first `count` scenes of "train" or "test": images (N, 3, 32, 32) and labels (N,).

    Raises:
        DataError: a photograph or the garments are missing or damaged.
    """
    backgrounds, garments = load_sources(split)
    key = 2 * VERSION + list(COUNTS).index(split)
    pixels = np.empty((count, 3, *CONFIG.canvas), np.uint8)
    classes = np.empty(count, np.int64)
    for i in range(count):
        scene = make_scene(key, i, CONFIG, backgrounds, garments)
        pixels[i] = scene.images[0].transpose(2, 0, 1)
        classes[i] = scene.labels[0]
    return pixels, classes
