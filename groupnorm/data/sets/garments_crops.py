"""garments-crops: single garments on photographs, 48x48 colour, to pretrain detectors of garments.

10,000 training and 2,000 test crops in ten classes, from the garments and the photographs of
fashion-scenes and in the size that garments have in the scenes of `garments`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from groupnorm.data.memory.image_set import ImageSet
from groupnorm.data.paths import cache_folder
from groupnorm.data.sets.fashion_mnist_mini import CLASS_NAMES, NUM_TRAIN
from groupnorm.data.synthetic.cache import load_or_make
from groupnorm.data.synthetic.scenes import SceneConfig, make_scene
from groupnorm.data.synthetic.sources import find_sources, load_sources

NAME = "garments-crops"
VERSION = 1  # raise it with every change of the pixels
COUNTS = {"train": 10_000, "test": 2_000}
CONFIG = SceneConfig(canvas=(48, 48), garments=(1, 1), size=(24.0, 46.0))
_KEYS = {"train": 1002, "test": 1003}  # of the scenes


def cache_file() -> Path:
    """Where the finished data set is kept; the name holds the version."""
    return cache_folder() / f"{NAME}-{VERSION}.bin"


def find(root: Path | None = None) -> str:
    """Where the crops are, or what they will be made from; `root` is not needed.

    Raises:
        DataError: the crops are not in the cache, and a photograph or the garments are missing.
    """
    if cache_file().is_file():
        return str(cache_file())
    return f"{cache_file()}, to be made on first use from photographs in {find_sources()}"


def load(root: Path | None = None) -> ImageSet:
    """48x48 colour crops with one garment each; `root` is not needed.

    They are read from the cache, or made (a few seconds) and cached. A damaged cache is made again;
    where the cache cannot be written, the crops are made each time and a warning is logged.

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
        class_names=CLASS_NAMES,
        flip=True,
        pad=4,
        sources=torch.arange(len(parts[1])) % NUM_TRAIN,
    )


def make(split: str, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The first `count` crops of "train" or "test": uint8 (N, 3, 48, 48) and labels (N,).

    Raises:
        DataError: a photograph or the garments are missing or damaged.
    """
    backgrounds, garments = load_sources(split)
    key = (VERSION << 32) + _KEYS[split]
    pixels = np.empty((count, 3, *CONFIG.canvas), np.uint8)
    labels = np.empty(count, np.int64)
    for index in range(count):
        scene = make_scene(key, index, CONFIG, backgrounds, garments)
        pixels[index] = scene.images[0].transpose(2, 0, 1)
        labels[index] = scene.labels[0]
    return pixels, labels
