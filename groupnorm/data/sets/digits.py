"""digits: the 1,797 handwritten 8x8 digits that scikit-learn ships."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from groupnorm.data.issues import DataError
from groupnorm.data.memory.image_set import ImageSet

NAME = "digits"
NUM_TRAIN = 1437
_MISSING = (
    "digits comes with scikit-learn, which is not installed; install it with: "
    "pip install 'groupnorm[study]'"
)


def find(root: Path | None = None) -> str:
    """Where the data is; `root` is not needed.

    Raises:
        DataError: scikit-learn is not installed.
    """
    if find_spec("sklearn") is None:
        raise DataError(_MISSING)
    return "in the package scikit-learn"


def load(root: Path | None = None) -> ImageSet:
    """8x8 grey images of 10 digits in a fixed random order, 1,437 to train and 360 to test.

    Raises:
        DataError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise DataError(_MISSING) from None
    bunch = load_digits()
    order = np.random.Generator(np.random.PCG64(0)).permutation(len(bunch.target))
    images = np.rint(bunch.images[order] * (255 / 16)).astype(np.uint8)
    pixels = torch.from_numpy(images).unsqueeze(1)
    labels = torch.from_numpy(bunch.target[order]).long()
    return ImageSet(
        name=NAME,
        version="1",
        train_images=pixels[:NUM_TRAIN].contiguous(),
        train_labels=labels[:NUM_TRAIN],
        test_images=pixels[NUM_TRAIN:].contiguous(),
        test_labels=labels[NUM_TRAIN:],
        class_names=tuple("0123456789"),
        flip=False,
        pad=1,
    )
