"""The six photographs that scikit-image and scikit-learn ship, cut into two disjoint regions."""

from __future__ import annotations

from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from groupnorm.data.issues import DataError
from groupnorm.data.paths import read_checked

# (package, folder in it, file, sha256)
PHOTOGRAPHS = (
    (
        "skimage",
        "data/astronaut.png",
        "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
    ),
    (
        "skimage",
        "data/chelsea.png",
        "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
    ),
    (
        "skimage",
        "data/coffee.png",
        "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
    ),
    (
        "skimage",
        "data/rocket.jpg",
        "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",
    ),
    (
        "sklearn",
        "datasets/images/china.jpg",
        "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29",
    ),
    (
        "sklearn",
        "datasets/images/flower.jpg",
        "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638",
    ),
)
TRAIN_SHARE = 0.6  # of each photograph's width, from the left; the test region is the rest
_HOW = "get it with: pip install 'groupnorm[study]'"


def find() -> list[Path]:
    """The paths of the six files, without importing the packages that hold them.

    Raises:
        DataError: a package or a file is missing.
    """
    paths = []
    for package, name, _ in PHOTOGRAPHS:
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise DataError(
                f"the photograph {Path(name).name} was looked for in the package {package}, "
                f"which is not installed; {_HOW}"
            )
        path = Path(spec.submodule_search_locations[0]) / name
        if not path.is_file():
            raise DataError(f"the photograph {path} is missing; {_HOW}")
        paths.append(path)
    return paths


def load() -> list[NDArray[np.uint8]]:
    """The photographs, in the order of PHOTOGRAPHS, each uint8 (H, W, 3).

    Raises:
        DataError: a package, a file or the image decoder (pillow) is missing, or a file is not the
            one expected.
    """
    try:
        from PIL import Image
    except ImportError:
        raise DataError(f"pillow, which decodes photographs, is not installed; {_HOW}") from None
    images = []
    for path, (_, _, sha256) in zip(find(), PHOTOGRAPHS, strict=True):
        with Image.open(BytesIO(read_checked(path, sha256, _HOW))) as image:
            images.append(np.asarray(image.convert("RGB")))
    return images


def split(photograph: NDArray[np.uint8]) -> dict[str, NDArray[np.uint8]]:
    """The regions "train" (left) and "test" (right) of one photograph; no pixel is in both."""
    column = round(photograph.shape[1] * TRAIN_SHARE)
    return {"train": photograph[:, :column], "test": photograph[:, column:]}
