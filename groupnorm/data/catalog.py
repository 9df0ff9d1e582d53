"""The data sets by name. Each is a module with `find(root)` and `load(root)`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

from groupnorm.data.image_set import DataError, ImageSet

_MODULES = {
    "digits": "digits",
    "fashion-mnist-mini": "fashion_mnist_mini",
    "fashion-scenes": "fashion_scenes",
    "fashion-mnist": "fashion_mnist",
    "cifar10": "cifar10",
    "cifar100": "cifar100",
}
NAMES: tuple[str, ...] = tuple(_MODULES)
DEFAULT = "fashion-scenes"


def load(name: str, root: Path | None = None) -> ImageSet:
    """Load a data set.

    Args:
        name: one of `NAMES`.
        root: a folder to look in first; then come the environment variable GROUPNORM_DATA, the
            usual places, `./data` and the cache folder (GROUPNORM_CACHE or
            XDG_CACHE_HOME/groupnorm or ~/.cache/groupnorm).

    Raises:
        DataError: an unknown name; files that are missing, truncated, or not the expected ones. The
            message says what was looked for, where, and how to get it.
    """
    image_set: ImageSet = _module(name).load(root)
    return image_set


def find(name: str, root: Path | None = None) -> str:
    """Where a data set was found, without decoding or making it; arguments as in `load`.

    Raises:
        DataError: an unknown name, or missing files.
    """
    place: str = _module(name).find(root)
    return place


def _module(name: str) -> ModuleType:
    if name not in _MODULES:
        raise DataError(f"unknown data set {name!r}; known: {', '.join(NAMES)}")
    return import_module(f"groupnorm.data.{_MODULES[name]}")
