"""A miniature of the official CIFAR-10 archive: the same members and pickles, of fewer images.

The official files were written by Python 2: their text is that of `str`, which Python 3 reads as
bytes. `Python2Pickler` writes bytes as such text.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import struct
import tarfile
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from groupnorm.data.sets.cifar import CIFAR10

IMAGES = 40
"""In each of the six files."""


class Python2Pickler(pickle._Pickler):
    """Protocol 2 with bytes as the text of Python 2."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_text(self, value: bytes) -> None:
        """Write SHORT_BINSTRING or BINSTRING."""
        size = len(value)
        self.write((b"U" + bytes([size])) if size < 256 else b"T" + struct.pack("<i", size))
        self.write(value)
        self.memoize(value)

    dispatch[bytes] = save_text


def pickled(value: Any) -> bytes:
    """A value as Python 2 pickled it."""
    buffer = io.BytesIO()
    Python2Pickler(buffer, 2).dump(value)
    return buffer.getvalue()


def members(images: int = IMAGES) -> dict[str, bytes]:
    """Every file of the archive's folder. A class can be told by the colour of its images."""
    rng = np.random.default_rng(0)
    found = {}
    for number, name in enumerate((*CIFAR10.train, *CIFAR10.test), 1):
        labels = [index % 10 for index in range(images)]
        pixels = rng.integers(0, 60, (images, 3, 1024))
        pixels[range(images), np.array(labels) % 3] += 19 * np.array(labels)[:, None]
        what = f"training batch {number} of 5" if name in CIFAR10.train else "testing batch 1 of 1"
        batch = {
            b"batch_label": what.encode(),
            b"labels": labels,
            b"data": pixels.reshape(images, 3072).astype(np.uint8),
            b"filenames": [f"{name}_{index:06}.png".encode() for index in range(images)],
        }
        found[name] = pickled(batch)
    meta = {
        b"num_cases_per_batch": images,
        b"label_names": [name.encode() for name in CIFAR10.class_names],
        b"num_vis": 3072,
    }
    return {"batches.meta": pickled(meta), **found, "readme.html": b"<a>CIFAR-10</a>\n"}


def write_archive(root: Path, images: int = IMAGES) -> Path:
    """Write the archive under its official name."""
    root.mkdir(parents=True, exist_ok=True)
    path = root / CIFAR10.archive
    with tarfile.open(path, "w:gz") as tar:
        folder = tarfile.TarInfo(CIFAR10.folder)
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, data in members(images).items():
            member = tarfile.TarInfo(f"{CIFAR10.folder}/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def digests(images: int = IMAGES) -> dict[str, str]:
    """The MD5 sums of the files with images."""
    found = members(images)
    return {name: hashlib.md5(found[name]).hexdigest() for name in (*CIFAR10.train, *CIFAR10.test)}


def accepting(folder: Path, images: int = IMAGES) -> dict[str, str]:
    """The environment of a Python that takes the miniature for the official archive.

    A module that every Python imports when it starts puts the miniature's sums and size in the
    place of the official ones. The package itself has no way around them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sums = digests(images)
    (folder / "sitecustomize.py").write_text(
        textwrap.dedent(
            f"""
            from groupnorm.data.sets import cifar
            sums = {sums!r}
            for files in (cifar.CIFAR10.train, cifar.CIFAR10.test):
                files.update({{name: sums[name] for name in files}})
            object.__setattr__(cifar.CIFAR10, "images_per_train_file", {images})
            cifar.TEST_IMAGES = {images}
            """
        )
    )
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return {**os.environ, "PYTHONPATH": path}
