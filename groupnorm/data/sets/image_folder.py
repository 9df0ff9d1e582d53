"""imagefolder: any images, one folder for each class, in `train/` and `val/` (or `test/`)."""

from __future__ import annotations

from pathlib import Path

from groupnorm.data.files.class_folders import list_splits, match_classes
from groupnorm.data.files.listing import ImageFiles, list_files
from groupnorm.data.files.splits import evaluation_folder, find_splits
from groupnorm.data.paths import search_folders

NAME = "imagefolder"
_WHAT = f"{NAME} (train/<class>/* and val/<class>/* or test/<class>/*)"
HOW_TO_GET = (
    "Get it with: one folder of images for each class, the same in train/ and in val/ (or test/), "
    "below one folder; name that folder with --data-root or in the environment variable "
    "GROUPNORM_DATA, or call it data/imagefolder"
)


def find(root: Path | None = None) -> str:
    """The folder that holds `train/` and `val/` or `test/`: one searched, or `imagefolder` there.

    Raises:
        DataError: no folder has them; the message says where it looked.
    """
    return str(find_splits(_WHAT, search_folders(root), ("", NAME), HOW_TO_GET))


def load(root: Path | None = None) -> ImageFiles:
    """The images of a folder. Classes are the folders' names, sorted; files are sorted by path.

    Where there are both, `val/` is taken and `test/` is left alone.

    Raises:
        DataError: not found, a single class, a class without images, a test class that is not in
            `train/`, or a link by which images are there twice.
    """
    folder = Path(find(root))
    train, test = list_splits(folder / "train", evaluation_folder(folder))
    test_listing, notes = match_classes(train, test)
    notes = [*train.notes(), *test.notes(), *notes]
    return list_files(NAME, folder, train.listing, test_listing, train.classes, notes)
