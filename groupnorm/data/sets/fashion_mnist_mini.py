"""fashion-mnist-mini: the first 10,000 training and 2,000 test images of Fashion-MNIST, shipped.

Fashion-MNIST: Xiao, Rasul, Vollgraf, arXiv 1708.07747; MIT licence, notice in
shipped/FASHION_MNIST_LICENSE.txt. The file is made by scripts/make_fashion_mnist_mini.py: bzip2 of
training images, test images, training labels, test labels, one byte a value, nothing else.
"""

from __future__ import annotations

import bz2
from pathlib import Path

import numpy as np
import torch

from groupnorm.data.memory.image_set import ImageSet
from groupnorm.data.paths import read_checked

NAME = "fashion-mnist-mini"
NUM_TRAIN, NUM_TEST, SIDE = 10_000, 2_000, 28
CLASS_NAMES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
FILE = Path(__file__).parents[1] / "shipped" / "fashion_mnist_mini.bz2"
SHA256 = "854aec7d4a8613b919a727d8cd40b838a629e454c2e05a34f3a3ad509c677710"
_HOW = "it is part of this package: install groupnorm again"


def find(root: Path | None = None) -> str:
    """Where the data is; `root` is not needed. The whole file is checked (a few milliseconds).

    Raises:
        DataError: the file of the package is missing or damaged.
    """
    read_checked(FILE, SHA256, _HOW)
    return str(FILE)


def load(root: Path | None = None) -> ImageSet:
    """28x28 grey images of 10 kinds of garment; `root` is not needed.

    Raises:
        DataError: the file of the package is missing or damaged.
    """
    values = np.frombuffer(bz2.decompress(read_checked(FILE, SHA256, _HOW)), np.uint8)
    sizes = (NUM_TRAIN * SIDE * SIDE, NUM_TEST * SIDE * SIDE, NUM_TRAIN, NUM_TEST)
    parts = [torch.from_numpy(part.copy()) for part in np.split(values, np.cumsum(sizes)[:-1])]
    return ImageSet(
        name=NAME,
        version="1",
        train_images=parts[0].view(-1, 1, SIDE, SIDE),
        train_labels=parts[2].long(),
        test_images=parts[1].view(-1, 1, SIDE, SIDE),
        test_labels=parts[3].long(),
        class_names=CLASS_NAMES,
        flip=True,
        pad=2,
    )
