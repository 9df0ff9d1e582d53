"""The data sets by name."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path

from groupnorm.data.files.listing import ImageFiles
from groupnorm.data.memory.image_set import DataError, ImageSet
from groupnorm.data.sets import (
    cifar,
    digits,
    fashion_mnist,
    fashion_mnist_mini,
    fashion_scenes,
    image_folder,
    imagenet,
    pets,
    photo_patches,
)

Load = Callable[[Path | None], ImageSet | ImageFiles]
Find = Callable[[Path | None], str]
_SETS: dict[str, tuple[Load, Find]] = {
    "digits": (digits.load, digits.find),
    "fashion-mnist-mini": (fashion_mnist_mini.load, fashion_mnist_mini.find),
    "fashion-scenes": (fashion_scenes.load, fashion_scenes.find),
    "fashion-mnist": (fashion_mnist.load, fashion_mnist.find),
    "cifar10": (cifar.load_cifar10, cifar.find_cifar10),
    "cifar100": (cifar.load_cifar100, cifar.find_cifar100),
    "imagenet": (imagenet.load, imagenet.find),
    "imagefolder": (image_folder.load, image_folder.find),
    "pets": (pets.load, pets.find),
    "photo-patches": (photo_patches.load, photo_patches.find),
}
NAMES: tuple[str, ...] = tuple(_SETS)
IMAGE_FILES = ("imagenet", "imagefolder", "pets", "photo-patches")
"""Those whose images lie in files, of any size."""
DEFAULT = "fashion-scenes"


def load(name: str, root: Path | None = None) -> ImageSet | ImageFiles:
    """Load a data set: small images in memory, photographs as lists of files.

    Args:
        name: one of `NAMES`.
        root: a folder to look in first; then come the environment variable GROUPNORM_DATA, the
            usual places, `./data` and the cache folder (GROUPNORM_CACHE or
            XDG_CACHE_HOME/groupnorm or ~/.cache/groupnorm).

    Raises:
        DataError: an unknown name; files that are missing, truncated, or not the expected ones. The
            message says what was looked for, where, and how to get it.
    """
    check_name(name)
    return _SETS[name][0](root)


def find(name: str, root: Path | None = None) -> str:
    """Where a data set was found, without decoding or making it; arguments as in `load`.

    Raises:
        DataError: an unknown name, or missing files.
    """
    check_name(name)
    return _SETS[name][1](root)


def check_name(name: str) -> None:
    """Raise DataError for an unknown data set, with a hint where the name is that of a folder."""
    if name in _SETS:
        return
    hint = ""
    if os.sep in name or "/" in name or os.path.exists(name):
        root = f"--data-root {shlex.quote(name)}"
        hint = (
            f". A folder of images is --data imagefolder {root} (groupnorm train: "
            f"data=imagefolder {root})"
        )
    raise DataError(f"unknown data set {name!r}; known: {', '.join(NAMES)}{hint}")
