"""fashion-mnist: 60,000 + 10,000 grey 28x28 images in IDX files (arXiv 1708.07747, MIT licence)."""

from __future__ import annotations

import gzip
import struct
import zlib
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from groupnorm.data.issues import DataError
from groupnorm.data.memory.image_set import ImageSet
from groupnorm.data.paths import check_digest, first_match, search_folders
from groupnorm.data.sets.fashion_mnist_mini import CLASS_NAMES

NAME = "fashion-mnist"
SIDE = 28
# file -> (shape, sha256 of the file without gzip: distributions compress it in their own way)
FILES = {
    "train-images-idx3-ubyte": (
        (60_000, SIDE, SIDE),
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    ),
    "train-labels-idx1-ubyte": (
        (60_000,),
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    ),
    "t10k-images-idx3-ubyte": (
        (10_000, SIDE, SIDE),
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    ),
    "t10k-labels-idx1-ubyte": (
        (10_000,),
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}
_SUBFOLDERS = ("", "fashion-mnist", "FashionMNIST/raw")
_DEBIAN = Path("/usr/share/datasets/fashion-mnist")
HOW_TO_GET = (
    "Get it with: apt-get install dataset-fashion-mnist, or "
    "python -c \"import torchvision; torchvision.datasets.FashionMNIST('data', download=True)\""
)


def find(root: Path | None = None) -> str:
    """The folder of the four files.

    Raises:
        DataError: no folder has all of them; the message says where it looked.
    """

    def match(folder: Path) -> Path | None:
        for below in _SUBFOLDERS:
            path = folder / below
            if all(_path(path, name).is_file() for name in FILES):
                return path
        return None

    what = f"{NAME} ({', '.join(f'{name}[.gz]' for name in FILES)})"
    return str(first_match(what, search_folders(root, [_DEBIAN]), match, HOW_TO_GET, _hint))


def load(root: Path | None = None) -> ImageSet:
    """28x28 grey images of 10 kinds of garment.

    Raises:
        DataError: files are missing, truncated, or not Fashion-MNIST's.
    """
    folder = Path(find(root))
    values = {
        name: read_idx(_path(folder, name), shape, sha256)
        for name, (shape, sha256) in FILES.items()
    }
    return ImageSet(
        name=NAME,
        version="1",
        train_images=values["train-images-idx3-ubyte"].unsqueeze(1),
        train_labels=values["train-labels-idx1-ubyte"].long(),
        test_images=values["t10k-images-idx3-ubyte"].unsqueeze(1),
        test_labels=values["t10k-labels-idx1-ubyte"].long(),
        class_names=CLASS_NAMES,
        flip=True,
        pad=2,
    )


def read_idx(path: Path, shape: tuple[int, ...], sha256: str | None = None) -> Tensor:
    """An IDX file of bytes, plain or gzip, that must have `shape`: uint8.

    Args:
        path: the file; a name that ends in .gz is decompressed.
        shape: the expected shape.
        sha256: the expected checksum of the file without gzip; None checks none.

    Raises:
        DataError: unreadable, truncated, of another type, shape or checksum.
    """
    header = struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape)
    expected = len(header) + prod(shape)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(expected + 1)  # no more: a small file can unpack to a huge one
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}. {HOW_TO_GET}") from error
    if not data.startswith(header):
        raise DataError(
            f"{path} is not an IDX file of {' x '.join(map(str, shape))} bytes: "
            f"it begins with {data[: len(header)].hex()}, expected {header.hex()}. {HOW_TO_GET}"
        )
    if len(data) != expected:
        count = len(data) if len(data) < expected else "more"
        raise DataError(f"{path} holds {count} bytes, expected {expected}. {HOW_TO_GET}")
    if sha256 is not None:
        check_digest(str(path), data, sha256, "sha256", HOW_TO_GET)
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=len(header)).reshape(shape).copy())


def _hint(folder: Path) -> str:
    """Some sites name the files with a dot where the original names have a hyphen."""
    for below in _SUBFOLDERS:
        for name in FILES:
            dotted = folder / below / name.replace("-idx", ".idx")
            for path in (dotted, Path(f"{dotted}.gz")):
                if path.is_file():
                    return f"There is {path}: name the files with a hyphen, as {name}."
    return ""


def _path(folder: Path, name: str) -> Path:
    plain = folder / name
    return plain if plain.is_file() else folder / f"{name}.gz"
