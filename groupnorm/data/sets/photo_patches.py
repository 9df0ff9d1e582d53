"""photo-patches: patches of six photographs as image files, made on first use.

To try what reads image files, without a download: 72 training and 24 test images of 96 pixels, one
class for each photograph, training and test patches from separate regions of it. No benchmark.
"""

from __future__ import annotations

import shutil
import tempfile
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from groupnorm.data.files.listing import ImageFiles, Listing, list_files
from groupnorm.data.issues import DataError
from groupnorm.data.paths import cache_folder
from groupnorm.data.synthetic import photographs

NAME = "photo-patches"
VERSION = 1  # raise it with every change of the pixels
SIZE = 96  # pixels
COUNTS = {"train": 12, "test": 4}  # of each photograph


def folder() -> Path:
    """Where the finished data set is kept; the name holds the version."""
    return cache_folder() / f"{NAME}-{VERSION}"


def find(root: Path | None = None) -> str:
    """Where the patches are, or what they will be made from; `root` is not needed.

    Raises:
        DataError: they are not in the cache, and a photograph is missing.
    """
    if folder().is_dir():
        return str(folder())
    photographs.find()
    return f"{folder()}, to be made on first use"


def load(root: Path | None = None) -> ImageFiles:
    """The patches, which are made and cached when they are not there; `root` is not needed.

    Raises:
        DataError: a photograph or pillow is missing, or the cache cannot be written.
    """
    if not folder().is_dir():
        _make(folder())
    classes = [Path(name).stem for _, name, _ in photographs.PHOTOGRAPHS]
    listings: dict[str, Listing] = {
        split: [
            (str(folder() / split / name / f"{number}.png"), label)
            for label, name in enumerate(classes)
            for number in range(count)
        ]
        for split, count in COUNTS.items()
    }
    return list_files(NAME, folder(), listings["train"], listings["test"], classes)


def patches(region: NDArray[np.uint8], count: int, seed: int) -> list[NDArray[np.uint8]]:
    """`count` random squares (SIZE, SIZE, 3) of a region (H, W, 3)."""
    draw = np.random.default_rng(seed)
    tops = draw.integers(0, region.shape[0] - SIZE + 1, count)
    lefts = draw.integers(0, region.shape[1] - SIZE + 1, count)
    return [
        region[top : top + SIZE, left : left + SIZE] for top, left in zip(tops, lefts, strict=True)
    ]


def _make(path: Path) -> None:
    images = photographs.load()  # which needs pillow
    from PIL import Image

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        begun = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        try:
            for label, (image, (_, name, _)) in enumerate(
                zip(images, photographs.PHOTOGRAPHS, strict=True)
            ):
                for split, region in photographs.split(image).items():
                    into = begun / split / Path(name).stem
                    into.mkdir(parents=True)
                    for number, patch in enumerate(patches(region, COUNTS[split], label)):
                        buffer = BytesIO()
                        Image.fromarray(patch).save(buffer, "PNG")
                        (into / f"{number}.png").write_bytes(buffer.getvalue())
            begun.chmod(0o755)
            if not path.is_dir():  # another process may have been faster
                begun.replace(path)
        finally:
            shutil.rmtree(begun, ignore_errors=True)
    except OSError as error:
        if not path.is_dir():
            raise DataError(
                f"{NAME} cannot be made in {path}: {error}; set GROUPNORM_CACHE to a folder that "
                "can be written"
            ) from error
