"""Arrays that are made once and kept in a file of the cache, which is checked when it is read."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groupnorm.files import write_atomic

_log = logging.getLogger(__name__)
_DIGEST = 64  # length of a sha256 in hexadecimal digits
_PARTS = ("train_images", "train_labels", "test_images", "test_labels")


def load_or_make(
    path: Path,
    make: Callable[[str, int], tuple[NDArray[np.uint8], NDArray[np.int64]]],
    counts: Mapping[str, int],
) -> list[NDArray[Any]]:
    """Images and labels of "train", then those of "test": from the cache file, or made and kept.

    Args:
        make: from a split's name and number of images to its images and labels.
        counts: the number of images of each split.
    """
    arrays = read_arrays(path)
    if arrays is None:
        _log.info("making %s (a few seconds)", path)
        splits = {split: make(split, counts[split]) for split in ("train", "test")}
        arrays = dict(zip(_PARTS, (*splits["train"], *splits["test"]), strict=True))
        write_arrays(path, arrays)
    return [arrays[name] for name in _PARTS]


def read_arrays(path: Path) -> dict[str, NDArray[Any]] | None:
    """The arrays of a cache file by name, or None when it is missing or damaged."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    digest, payload = data[:_DIGEST], data[_DIGEST:]
    if digest != hashlib.sha256(payload).hexdigest().encode():
        _log.warning("%s is damaged and will be made again", path)
        return None
    with np.load(BytesIO(payload), allow_pickle=False) as arrays:
        return dict(arrays)


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a cache file: the sha256 of the rest in hexadecimal, then an .npz archive.

    Where it cannot be written, a warning is logged.
    """
    buffer = BytesIO()
    named: dict[str, Any] = dict(arrays)
    np.savez(buffer, allow_pickle=False, **named)
    payload = buffer.getvalue()
    try:
        write_atomic(path, hashlib.sha256(payload).hexdigest().encode() + payload)
    except OSError as error:
        _log.warning("cannot keep %s: %s", path, error)
