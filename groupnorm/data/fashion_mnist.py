"""fashion-mnist: 60,000 + 10,000 grey 28x28 images in IDX files (arXiv 1708.07747, MIT licence)."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import torch

from groupnorm.data.fashion_mnist_mini import CLASS_NAMES
from groupnorm.data.image_set import DataError, ImageSet
from groupnorm.data.places import first_match, search_folders

NAME = "fashion-mnist"
SIDE = 28
SIZES = {"train": 60_000, "t10k": 10_000}
_SUBFOLDERS = ("", "fashion-mnist", "FashionMNIST/raw")
_DEBIAN = Path("/usr/share/datasets/fashion-mnist")
HOW_TO_GET = (
    "Get it with: apt-get install dataset-fashion-mnist, or "
    "python -c \"import torchvision; torchvision.datasets.FashionMNIST('data', download=True)\""
)


def find(root: Path | None = None) -> str:
    """The folder of the four files.

    Raises:
        DataError: no folder has all of them; the message lists where was looked.
    """
    return str(_folder(root))


def load(root: Path | None = None) -> ImageSet:
    """28x28 grey images of 10 kinds of garment.

    Raises:
        DataError: files are missing, truncated, or not Fashion-MNIST's.
    """
    folder = _folder(root)
    tensors = []
    for split, count in SIZES.items():
        images = read_idx(_file(folder, f"{split}-images-idx3-ubyte"), (count, SIDE, SIDE))
        labels = read_idx(_file(folder, f"{split}-labels-idx1-ubyte"), (count,))
        tensors += [torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels).long()]
    return ImageSet(
        NAME, "1", *tensors, class_names=CLASS_NAMES, flip=True, pad=2
    )  # fmt: skip


def read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """An IDX file of bytes, plain or gzip, that must have `shape`.

    Raises:
        DataError: unreadable, truncated, of another type or shape.
    """
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}. {HOW_TO_GET}") from error
    header = struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape)
    if not data.startswith(header):
        raise DataError(
            f"{path} is not an IDX file of {' x '.join(map(str, shape))} bytes: "
            f"it begins with {data[: len(header)].hex()}, expected {header.hex()}. {HOW_TO_GET}"
        )
    expected = len(header) + int(np.prod(shape))
    if len(data) != expected:
        raise DataError(f"{path} holds {len(data)} bytes, expected {expected}. {HOW_TO_GET}")
    return np.frombuffer(data, np.uint8, offset=len(header)).reshape(shape).copy()


def _folder(root: Path | None) -> Path:
    names = [f"{split}-{kind}" for split in SIZES for kind in ("images-idx3", "labels-idx1")]

    def match(folder: Path) -> Path | None:
        for below in _SUBFOLDERS:
            place = folder / below
            if all(_exists(place, f"{name}-ubyte") for name in names):
                return place
        return None

    what = f"{NAME} ({', '.join(f'{name}-ubyte[.gz]' for name in names)})"
    return first_match(what, search_folders(root, [_DEBIAN]), match, HOW_TO_GET)


def _exists(folder: Path, name: str) -> bool:
    return (folder / name).is_file() or (folder / f"{name}.gz").is_file()


def _file(folder: Path, name: str) -> Path:
    return folder / name if (folder / name).is_file() else folder / f"{name}.gz"
