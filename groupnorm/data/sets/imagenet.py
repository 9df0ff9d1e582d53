"""imagenet: ILSVRC 2012 classification (Russakovsky et al., IJCV 2015) in its official layouts.

Training images lie in `train/<wnid>/`. Validation images lie in `val/<wnid>/`, or all in `val/` as
their archive has them; the labels are then read from the devkit. Labels are the places of the wnids
in their sorted order, as in torchvision; the devkit's own numbers, 1 to 1000, are in another order.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from io import BytesIO
from itertools import filterfalse
from pathlib import Path
from typing import Any

from groupnorm.data.files.class_folders import (
    is_hidden,
    list_classes,
    list_splits,
    match_classes,
    subfolders,
)
from groupnorm.data.files.listing import ImageFiles, Listing, list_files
from groupnorm.data.issues import DataError
from groupnorm.data.paths import first_match, search_folders

NAME = "imagenet"
DEVKIT = "ILSVRC2012_devkit_t12"
_WHAT = f"{NAME} (train/<wnid>/*.JPEG, and val/<wnid>/*.JPEG or val/*.JPEG with {DEVKIT}/)"
LARGEST_META = 1 << 26  # bytes of meta.mat, packed or not
_COMPRESSED = 15  # the type of a packed element
_SUBFOLDERS = ("", "imagenet", "ILSVRC2012")
_WNID = re.compile(r"n\d{8}")
_VAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")
HOW_TO_GET = f"""\
Get it with an account of https://image-net.org/challenges/LSVRC/2012/2012-downloads.php: \
ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and {DEVKIT}.tar.gz. Put them into \
./data/imagenet (or imagenet/ in the folder of --data-root or GROUPNORM_DATA) and unpack them there:
  mkdir train val && tar -xf ILSVRC2012_img_train.tar -C train
  for f in train/*.tar; do mkdir "${{f%.tar}}" && tar -xf "$f" -C "${{f%.tar}}" && rm "$f"; done
  tar -xf ILSVRC2012_img_val.tar -C val
  tar -xzf {DEVKIT}.tar.gz"""


def find(root: Path | None = None) -> str:
    """The folder that holds `train/` with wnids and `val/`.

    Raises:
        DataError: no folder has them; the message says where it looked.
    """

    def match(folder: Path) -> Path | None:
        for below in _SUBFOLDERS:
            path = folder / below
            if (path / "train").is_dir() and (path / "val").is_dir() and _wnids(path / "train"):
                return path
        return None

    return str(first_match(_WHAT, search_folders(root), match, HOW_TO_GET))


def load(root: Path | None = None) -> ImageFiles:
    """ImageNet, or the part of its classes that is there; class names are wnids.

    Raises:
        DataError: not found, a class without images, other classes in the two splits; for a flat
            `val/` also no devkit, no scipy to read it, or other images than the devkit labels.
    """
    folder = Path(find(root))
    if subfolders(folder / "val"):
        train, test = list_splits(folder / "train", folder / "val")
        test_listing, notes = match_classes(train, test)
        notes = [*test.notes(), *notes]
    else:
        train, notes = list_classes(folder / "train"), []
        test_listing = _flat_validation(folder, train.classes)
    strange = [name for name in train.classes if not _WNID.fullmatch(name)]
    if strange:
        raise DataError(f"{folder / 'train'}: expected only folders as n01440764, got {strange[0]}")
    notes = [*train.notes(), *notes]
    return list_files(NAME, folder, train.listing, test_listing, train.classes, notes)


def _wnids(folder: Path) -> list[str]:
    return [name for name in subfolders(folder) if _WNID.fullmatch(name)]


def _flat_validation(folder: Path, classes: list[str]) -> Listing:
    """Path and label of the images of a flat `val/`, in the order of their numbers."""
    devkit = folder / DEVKIT / "data"
    wnid_of = read_meta(devkit / "meta.mat")
    truth = read_ground_truth(devkit / "ILSVRC2012_validation_ground_truth.txt")
    numbered: dict[int, str] = {}
    for name in sorted(filterfalse(is_hidden, os.listdir(folder / "val"))):
        match = _VAL_NAME.fullmatch(name)
        if match is None:
            raise DataError(
                f"{folder / 'val'}: expected files as ILSVRC2012_val_00000001.JPEG, got {name}"
            )
        numbered[int(match[1])] = str(folder / "val" / name)
    if sorted(numbered) != list(range(1, len(truth) + 1)):
        raise DataError(
            f"{folder / 'val'} has {len(numbered):,} images, {devkit} labels {len(truth):,}, "
            "numbered from 1: the folder is not unpacked completely, or belongs to another set"
        )
    labels = {wnid: label for label, wnid in enumerate(classes)}
    listing = []
    for number, identifier in enumerate(truth, 1):
        wnid = wnid_of.get(identifier)
        if wnid not in labels:
            raise DataError(
                f"validation image {number} is of class {identifier} "
                f"({wnid or 'unknown to meta.mat'}), which {folder / 'train'} does not have; a "
                "flat val/ needs all classes, a part of them needs val/<wnid>/"
            )
        listing.append((numbered[number], labels[wnid]))
    return listing


def read_meta(path: Path) -> dict[int, str]:
    """The devkit's `meta.mat`: ILSVRC2012_ID -> wnid, of the leaves (synsets without children).

    Raises:
        DataError: missing or damaged, or scipy is not installed.
    """
    try:
        from scipy.io import loadmat
    except ModuleNotFoundError:
        raise DataError(
            f"{path} is read with scipy, which is not installed; install it with: "
            "pip install 'groupnorm[study]', or sort the images into val/<wnid>/"
        ) from None
    _check_there(path)
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_META)
        _check_unpacked_size(content)
        matlab: Any = loadmat(BytesIO(content), squeeze_me=True, variable_names=["synsets"])
        synsets = matlab["synsets"]
        return {
            int(row["ILSVRC2012_ID"]): str(row["WNID"])
            for row in synsets.reshape(-1)
            if int(row["num_children"]) == 0
        }
    except Exception as error:  # a damaged file can raise nearly anything
        raise DataError(f"cannot read {path}: {error!r}. {HOW_TO_GET}") from error


def _check_unpacked_size(content: bytes) -> None:
    """Raise ValueError when an element of a MATLAB 5 file unpacks to more than `LARGEST_META`."""
    order = ">" if content[126:128] == b"MI" else "<"
    offset = 128
    while offset + 8 <= len(content):
        kind, size = struct.unpack_from(f"{order}II", content, offset)
        packed = content[offset + 8 : offset + 8 + size]
        if kind == _COMPRESSED:
            unpacked = zlib.decompressobj().decompress(packed, LARGEST_META + 1)
            if len(unpacked) > LARGEST_META:
                raise ValueError(f"it unpacks to more than {LARGEST_META:,} bytes")
        offset += 8 + size


def read_ground_truth(path: Path) -> list[int]:
    """The ILSVRC2012_ID of every validation image, one a line.

    Raises:
        DataError: missing, or a line is not a number.
    """
    _check_there(path)
    try:
        return [int(line) for line in path.read_text(encoding="utf-8-sig").split()]
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}. {HOW_TO_GET}") from error


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise DataError(
            f"val/ has no class folders, so its labels are read from {path}, which is missing. "
            f"{HOW_TO_GET}"
        )
