"""Arrays that are made once and kept in a file of the cache, which is checked when it is read."""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groupnorm.files import locked, write_atomic

_log = logging.getLogger(__name__)
_DIGEST = 64  # length of a sha256 in hexadecimal digits
_PARTS = ("train_images", "train_labels", "test_images", "test_labels")


def load_or_make(
    path: Path,
    make: Callable[[str, int], tuple[NDArray[np.uint8], NDArray[Any]]],
    counts: Mapping[str, int],
) -> list[NDArray[Any]]:
    """Images and labels of "train", then those of "test": from the cache file, or made and kept.

    Args:
        make: from a split's name and number of images to its images and labels, or label maps.
        counts: the number of images of each split.
    """
    arrays = read_arrays(path)
    if arrays is None:
        _log.info("making %s (a few seconds)", path)
        splits = {split: make(split, counts[split]) for split in ("train", "test")}
        arrays = dict(zip(_PARTS, (*splits["train"], *splits["test"]), strict=True))
        write_arrays(path, arrays)
    return [arrays[name] for name in _PARTS]


def map_or_make(
    path: Path,
    make: Callable[[str], NDArray[np.uint8]],
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, NDArray[np.uint8]]:
    """Large arrays by name, mapped from the cache file; made and kept where it is missing.

    Processes that map one file share its memory.

    The file is the sha256 of the rest in hexadecimal, then the arrays' bytes one after another. It
    is checked whole. One process makes it while others wait; where it cannot be written, the arrays
    are made each time and a warning is logged.

    Args:
        make: from a name to its array.
        shapes: of each array.
    """
    arrays = map_arrays(path, shapes)
    if arrays is not None:
        return arrays
    made: dict[str, NDArray[np.uint8]] | None = None
    try:
        with locked(path.with_name(f".{path.stem}.lock"), refusal=None):
            arrays = map_arrays(path, shapes)  # another process may have made it meanwhile
            if arrays is not None:
                return arrays
            if path.exists():
                _log.warning("%s is damaged and will be made again", path)
            for begun in path.parent.glob(f".{path.name}.*"):  # by processes that were killed
                begun.unlink()
            _log.info("making %s (a few seconds)", path)
            made = {name: make(name) for name in shapes}
            digest = hashlib.sha256()
            for array in made.values():
                digest.update(array.data)
            parts: list[bytes | memoryview] = [
                digest.hexdigest().encode(),
                *(array.data for array in made.values()),
            ]
            write_atomic(path, parts)
    except OSError as error:
        _log.warning("cannot keep %s: %s", path, error)
        return {name: make(name) for name in shapes} if made is None else made
    return map_arrays(path, shapes) or made


def map_arrays(
    path: Path, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, NDArray[np.uint8]] | None:
    """The arrays of a file of `map_or_make`, or None when it is missing or damaged.

    What is written into them stays in this process.
    """
    sizes = [math.prod(shape) for shape in shapes.values()]
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != _DIGEST + sum(sizes):
                return None
            digest = file.read(_DIGEST)
            if hashlib.file_digest(file, "sha256").hexdigest().encode() != digest:
                return None
            values = np.memmap(file, np.uint8, mode="c", offset=_DIGEST)
    except OSError:
        return None
    parts = np.split(values, np.cumsum(sizes)[:-1])
    return {
        name: np.asarray(part.reshape(shape))
        for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }


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
