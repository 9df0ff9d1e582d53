"""garments-motion: clips of a garment that moves over a photograph, in ten classes of motion.

12,000 training and 2,000 test videos of 20 frames, made on first use. Garments and photographs are
those of fashion-scenes; training and test videos share neither. The camera moves, too, and every
video has its own light.

Two of the classes, `swing` and `shake`, are aliases in every second frame: a swing of f cycles a
frame and a shake of 1/2 - f show the same there. A clip of 8 frames at stride 2 covers what one of
16 contiguous frames does, but can tell nine classes in place of ten apart: at most 90 % are right.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from groupnorm.data.paths import cache_folder
from groupnorm.data.synthetic.cache import map_or_make
from groupnorm.data.synthetic.motion import MIRRORED, class_labels, make_clip
from groupnorm.data.synthetic.sources import find_sources, load_sources
from groupnorm.data.video.clips import VideoSet

VERSION = 1  # raise it with every change of the pixels
CLASSES = ("right", "left", "down", "up", "cw", "ccw", "swing", "shake", "near", "far")
FLIP_LABELS = tuple(CLASSES.index(MIRRORED.get(name, name)) for name in CLASSES)
FRAMES = 20
CEILINGS = dict.fromkeys(range(2, FRAMES, 2), 90.0)
"""Even stride -> percent: one of two aliases is taken for the other there."""
COUNTS = {"train": 12_000, "test": 2_000}
_KEYS = {"train": 200, "test": 201}  # of the clips
_LABEL_KEYS = {"train": 202, "test": 203}


@dataclass(frozen=True)
class Variant:
    """One data set of this kind.

    Attributes:
        name: of the data set.
        canvas: height and width in pixels.
    """

    name: str
    canvas: int

    @property
    def cache_file(self) -> Path:
        """Where the finished data set is kept; the name holds the version."""
        return cache_folder() / f"{self.name}-{VERSION}.bin"

    def key(self, number: int) -> int:
        """Of a sequence of random numbers."""
        return (VERSION << 32) + (self.canvas << 16) + number


QUICK = Variant("garments-motion", 16)
STANDARD = Variant("garments-motion-24", 24)


def find(root: Path | None = None, variant: Variant = QUICK) -> str:
    """Where the videos are, or what they will be made from; `root` is not needed.

    Raises:
        DataError: they are not in the cache, and a photograph or the garments are missing.
    """
    if variant.cache_file.is_file():
        return str(variant.cache_file)
    return f"{variant.cache_file}, to be made on first use from photographs in {find_sources()}"


def load(root: Path | None = None, variant: Variant = QUICK) -> VideoSet:
    """Videos of 16x16 colour pixels; `root` is not needed.

    They are mapped from a file of the cache, which is made first (in some seconds). A damaged one
    is made again; where it cannot be written, the videos are made each time and a warning is
    logged.

    Raises:
        DataError: a photograph or the garments are missing or damaged.
    """
    frame = (variant.canvas, variant.canvas, 3)
    shapes = {split: (count, FRAMES, *frame) for split, count in COUNTS.items()}
    videos = map_or_make(
        variant.cache_file, lambda split: make(split, COUNTS[split], variant), shapes
    )
    return VideoSet(
        name=variant.name,
        version=str(VERSION),
        train_videos=torch.from_numpy(videos["train"]),
        train_labels=torch.from_numpy(labels("train", COUNTS["train"], variant)),
        test_videos=torch.from_numpy(videos["test"]),
        test_labels=torch.from_numpy(labels("test", COUNTS["test"], variant)),
        class_names=CLASSES,
        flip_labels=FLIP_LABELS,
        ceilings=CEILINGS,
    )


def find_24(root: Path | None = None) -> str:
    """As `find`, of `STANDARD`."""
    return find(root, STANDARD)


def load_24(root: Path | None = None) -> VideoSet:
    """As `load`, of `STANDARD`: videos of 24x24 pixels."""
    return load(root, STANDARD)


def labels(split: str, count: int, variant: Variant = QUICK) -> NDArray[np.int64]:
    """The labels of the first `count` videos of "train" or "test", (N,)."""
    return class_labels(variant.key(_LABEL_KEYS[split]), count, len(CLASSES))


def make(split: str, count: int, variant: Variant = QUICK) -> NDArray[np.uint8]:
    """The first `count` videos of "train" or "test", uint8 (N, FRAMES, canvas, canvas, 3).

    Raises:
        DataError: a photograph or the garments are missing or damaged.
    """
    backgrounds, garments = load_sources(split)
    key, canvas = variant.key(_KEYS[split]), variant.canvas
    videos = np.empty((count, FRAMES, canvas, canvas, 3), np.uint8)
    for index, label in enumerate(labels(split, count, variant)):
        videos[index] = make_clip(key, index, CLASSES[label], canvas, FRAMES, backgrounds, garments)
    return videos
