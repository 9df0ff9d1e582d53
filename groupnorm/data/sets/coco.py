"""coco: COCO 2017, objects in 80 categories, and any other data set in its layout.

Lin et al., Microsoft COCO, ECCV 2014. 118,287 training and 5,000 validation images; training images
without an object are not trained on, as in Detectron.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from groupnorm.counts import counted
from groupnorm.data.detection.annotations import DetectionSet
from groupnorm.data.detection.reader import read_split
from groupnorm.data.issues import DataError
from groupnorm.data.paths import first_match, search_folders

NAME = "coco"
SHORT_SIDE, LONG_SIDE = 800, 1333  # of images in training and evaluation; paper, section 4.2
_SUBFOLDERS = ("", "coco", "COCO", "coco2017")
_YEARS = ("2017", "")
_WHAT = (
    f"{NAME} (annotations/instances_train2017.json, annotations/instances_val2017.json, train2017/ "
    "and val2017/)"
)
HOW_TO_GET = (
    "Get it with: unpack http://images.cocodataset.org/zips/train2017.zip, val2017.zip from the "
    "same place and http://images.cocodataset.org/annotations/annotations_trainval2017.zip into "
    "./data/coco. A data set of your own has the same layout, with or without 2017 in the names"
)


def find(root: Path | None = None) -> str:
    """The folder that holds annotations and images.

    Raises:
        DataError: no folder has them; the message says where it looked.
    """
    return str(_find(root)[0])


def load(root: Path | None = None, *, masks: bool = True) -> DetectionSet:
    """The training and validation images with their objects.

    Args:
        masks: read the masks, too; without, the annotations need not have any.

    Raises:
        DataError: not found, an image that is missing, a malformed annotation file, or other
            categories in the two splits.
    """
    folder, year = _find(root)
    train, categories, train_digest = read_split(*_paths(folder, "train", year), masks=masks)
    test, test_categories, test_digest = read_split(*_paths(folder, "val", year), masks=masks)
    if (categories.ids, categories.names) != (test_categories.ids, test_categories.names):
        raise DataError(
            f"{train.file} and {test.file} have different categories: "
            f"{_difference(categories.ids, test_categories.ids)}"
        )
    notes = []
    without = len(train.images) - len(train.with_objects)
    if without:
        notes.append(
            f"not trained on: {counted(without, 'image')} of {train.folder.name}/ without an object"
        )
    digest = hashlib.sha256(f"{masks} {train_digest} {test_digest}".encode())
    return DetectionSet(
        name=NAME,
        version=digest.hexdigest()[:16],
        categories=categories,
        train=train,
        test=test,
        short_side=SHORT_SIDE,
        long_side=LONG_SIDE,
        notes=tuple(notes),
    )


def _find(root: Path | None) -> tuple[Path, str]:
    def match(folder: Path) -> Path | None:
        for below in _SUBFOLDERS:
            if _year(folder / below) is not None:
                return folder / below
        return None

    folder = first_match(_WHAT, search_folders(root), match, HOW_TO_GET)
    return folder, _year(folder) or ""


def _year(folder: Path) -> str | None:
    """What follows the splits' names there, "2017" or nothing; None where there is no data set."""
    for year in _YEARS:
        paths = [_paths(folder, split, year) for split in ("train", "val")]
        if all(file.is_file() and images.is_dir() for file, images in paths):
            return year
    return None


def _paths(folder: Path, split: str, year: str) -> tuple[Path, Path]:
    """The annotation file and the folder of images."""
    return folder / "annotations" / f"instances_{split}{year}.json", folder / f"{split}{year}"


def _difference(first: tuple[int, ...], second: tuple[int, ...]) -> str:
    only = sorted(set(first) ^ set(second))
    return f"only one has the ids {only[:5]}" if only else "names differ"
