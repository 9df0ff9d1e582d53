"""garments-masks: one or two garments on a photograph, with the garment that each pixel shows.

5,000 training and 1,000 test scenes of 32x32 colour pixels, made on first use. Garments and
photographs are those of fashion-scenes; each garment is in one scene at most, and training and test
scenes share neither garments nor photographs' regions. Of two garments the second may hide a part
of the first.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from groupnorm.data.paths import cache_folder
from groupnorm.data.segmentation.label_maps import SegmentationSet
from groupnorm.data.sets.fashion_mnist_mini import CLASS_NAMES
from groupnorm.data.synthetic.cache import load_or_make
from groupnorm.data.synthetic.scenes import Scene, SceneConfig, make_scene
from groupnorm.data.synthetic.sources import find_sources, load_sources

NAME = "garments-masks"
VERSION = 1  # raise it with every change of pixels or labels
COUNTS = {"train": 5_000, "test": 1_000}
CONFIG = SceneConfig(canvas=(32, 32), garments=(1, 2), size=(16.0, 30.0))
BACKGROUND = "background"
_KEYS = {"train": 1004, "test": 1005}  # of the scenes


def cache_file() -> Path:
    """Where the finished data set is kept; the name holds the version."""
    return cache_folder() / f"{NAME}-{VERSION}.bin"


def find(root: Path | None = None) -> str:
    """Where the scenes are, or what they will be made from; `root` is not needed.

    Raises:
        DataError: the scenes are not in the cache, and a photograph or the garments are missing.
    """
    if cache_file().is_file():
        return str(cache_file())
    return f"{cache_file()}, to be made on first use from photographs in {find_sources()}"


def load(root: Path | None = None) -> SegmentationSet:
    """32x32 colour scenes with a label for each pixel; `root` is not needed.

    They are read from the cache, or made (a few seconds) and cached. A damaged cache is made again;
    where the cache cannot be written, the scenes are made each time and a warning is logged.

    Raises:
        DataError: a photograph or the garments are missing or damaged.
    """
    parts = [torch.from_numpy(part) for part in load_or_make(cache_file(), make, COUNTS)]
    return SegmentationSet(
        name=NAME,
        version=str(VERSION),
        train_images=parts[0],
        train_maps=parts[1],
        test_images=parts[2],
        test_maps=parts[3],
        class_names=(BACKGROUND, *CLASS_NAMES),
    )


def make(split: str, count: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The first `count` scenes of "train" or "test": uint8 (N, 3, 32, 32) and maps (N, 32, 32).

    Raises:
        DataError: a photograph or the garments are missing or damaged.
    """
    backgrounds, garments = load_sources(split)
    height, width = CONFIG.canvas
    key = (VERSION << 32) + (height << 16) + _KEYS[split]
    pixels = np.empty((count, 3, height, width), np.uint8)
    maps = np.empty((count, height, width), np.uint8)
    for index in range(count):
        scene = make_scene(key, index, CONFIG, backgrounds, garments)
        pixels[index] = scene.images[0].transpose(2, 0, 1)
        maps[index] = label_map(scene)
    return pixels, maps


def label_map(scene: Scene) -> NDArray[np.uint8]:
    """What each pixel of a scene shows, uint8 (H, W): 0 the background, 1 to 10 a garment's label
    and 1."""
    found = np.zeros(scene.images.shape[1:3], np.uint8)
    for label, mask in zip(scene.labels, scene.masks[0], strict=True):
        found[mask] = label + 1
    return found
