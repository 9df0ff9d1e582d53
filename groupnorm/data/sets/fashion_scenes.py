"""fashion-scenes: Fashion-MNIST garments on real photographs, 32x32 colour, made on first use.

12,000 training scenes from the 10,000 training garments of fashion-mnist-mini, 4,000 test scenes
from its 2,000 test garments, each twice. Training and test scenes share no garment, and their
backgrounds come from separate regions of the photographs. Mean and spread differ strongly from
image to image, as in natural photographs, so that statistics over a small batch are poor ones.
"""

from __future__ import annotations

import hashlib
import logging
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from groupnorm.data.memory.image_set import ImageSet
from groupnorm.data.paths import cache_folder
from groupnorm.data.sets import fashion_mnist_mini
from groupnorm.data.synthetic import photographs
from groupnorm.data.synthetic.resample import area_table
from groupnorm.data.synthetic.scenes import SceneConfig, cut_out, make_scene
from groupnorm.files import write_atomic

NAME = "fashion-scenes"
VERSION = 1  # raise it with every change of the pixels
COUNTS = {"train": 12_000, "test": 4_000}
CONFIG = SceneConfig()
_log = logging.getLogger(__name__)
_PARTS = ("train_images", "train_labels", "test_images", "test_labels")
_DIGEST = 64  # length of a sha256 in hexadecimal digits


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
    fashion_mnist_mini.find()
    folders = sorted({str(photograph.parent) for photograph in photographs.find()})
    return f"{path}, to be made on first use from photographs in {', '.join(folders)}"


def load(root: Path | None = None) -> ImageSet:
    """32x32 colour scenes with one garment each; `root` is not needed.

    They are read from the cache, or made (a few seconds) and cached. A damaged cache is made again;
    where the cache cannot be written, the scenes are made each time and a warning is logged.

    Raises:
        DataError: a photograph or the garments are missing or damaged.
    """
    path = cache_file()
    parts = _read(path)
    if parts is None:
        _log.info("making %s in %s (a few seconds)", NAME, path)
        splits = {split: make(split, count) for split, count in COUNTS.items()}
        parts = (*splits["train"], *splits["test"])
        try:
            write_atomic(path, _pack(parts))
        except OSError as error:
            _log.warning("cannot keep %s in %s: %s", NAME, path, error)
    train_images, train_labels, test_images, test_labels = map(torch.from_numpy, parts)
    return ImageSet(
        name=NAME,
        version=str(VERSION),
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        class_names=fashion_mnist_mini.CLASS_NAMES,
        flip=True,
        pad=2,
        sources=torch.arange(len(train_labels)) % fashion_mnist_mini.NUM_TRAIN,
    )


def make(split: str, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The first `count` scenes of "train" or "test": images (N, 3, 32, 32) and labels (N,).

    Raises:
        DataError: a photograph or the garments are missing or damaged.
    """
    source = fashion_mnist_mini.load()
    images: Tensor = getattr(source, f"{split}_images")
    labels: Tensor = getattr(source, f"{split}_labels")
    garments = cut_out(images[:, 0].numpy(), labels.numpy())
    backgrounds = [area_table(photographs.split(image)[split]) for image in photographs.load()]
    key = 2 * VERSION + list(COUNTS).index(split)
    pixels = np.empty((count, 3, *CONFIG.canvas), np.uint8)
    classes = np.empty(count, np.int64)
    for i in range(count):
        scene = make_scene(key, i, CONFIG, backgrounds, garments)
        pixels[i] = scene.images[0].transpose(2, 0, 1)
        classes[i] = scene.labels[0]
    return pixels, classes


_Parts = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]


def _pack(parts: _Parts) -> bytes:
    """The cache file: the sha256 of the rest in hexadecimal, then an .npz archive."""
    buffer = BytesIO()
    arrays: dict[str, Any] = dict(zip(_PARTS, parts, strict=True))
    np.savez(buffer, allow_pickle=False, **arrays)
    payload = buffer.getvalue()
    return hashlib.sha256(payload).hexdigest().encode() + payload


def _read(path: Path) -> _Parts | None:
    """The arrays of a cache file, or None when it is missing or damaged."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    digest, payload = data[:_DIGEST], data[_DIGEST:]
    if digest != hashlib.sha256(payload).hexdigest().encode():
        _log.warning("%s is damaged and will be made again", path)
        return None
    with np.load(BytesIO(payload), allow_pickle=False) as arrays:
        return arrays[_PARTS[0]], arrays[_PARTS[1]], arrays[_PARTS[2]], arrays[_PARTS[3]]
