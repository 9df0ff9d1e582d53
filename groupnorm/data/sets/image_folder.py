"""imagefolder: any images, one folder for each class, in `train/` and `val/` (or `test/`)."""

from __future__ import annotations

from pathlib import Path

from groupnorm.data.files.class_folders import list_splits, match_classes, subfolders
from groupnorm.data.files.listing import ImageFiles, list_files
from groupnorm.data.paths import first_match, search_folders

NAME = "imagefolder"
_WHAT = f"{NAME} (train/<class>/* and val/<class>/* or test/<class>/*)"
_OTHER_NAMES = {
    "train": ("train", "training", "training_set"),
    "val": ("val", "valid", "validation", "validation_set"),
    "test": ("test", "testing", "test_set"),
}
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

    def match(folder: Path) -> Path | None:
        for path in (folder, folder / NAME):
            if (path / "train").is_dir() and _test_folder(path).is_dir():
                return path
        return None

    return str(first_match(_WHAT, search_folders(root), match, HOW_TO_GET, _hint))


def load(root: Path | None = None) -> ImageFiles:
    """The images of a folder. Classes are the folders' names, sorted; files are sorted by path.

    Where there are both, `val/` is taken and `test/` is left alone.

    Raises:
        DataError: not found, a single class, a class without images, a test class that is not in
            `train/`, or a link by which images are there twice.
    """
    folder = Path(find(root))
    train, test = list_splits(folder / "train", _test_folder(folder))
    test_listing, notes = match_classes(train, test)
    notes = [*train.notes(), *test.notes(), *notes]
    return list_files(NAME, folder, train.listing, test_listing, train.classes, notes)


def _hint(folder: Path) -> str:
    """What to do with folders of other names, or without splits."""
    for path in (folder, folder / NAME):
        if not path.is_dir():
            continue
        found = {name.lower(): name for name in subfolders(path)}
        renames = []
        for right, names in _OTHER_NAMES.items():
            name = next((name for name in names if name in found), right)
            if found.get(name, right) != right and not (path / right).is_dir():
                renames.append(f"{found[name]}/ to {right}/")
        there = ", ".join(f"{name}/" for name in found.values()) or "no folders"
        if renames:
            return f"There is {path} with {there}: rename {' and '.join(renames)}."
        if {"train", "val", "test"} & found.keys():
            missing = "val/ or test/" if "train" in found else "train/"
            return f"There is {path} with {there}: {missing} is missing."
    return ""


def _test_folder(folder: Path) -> Path:
    return folder / "val" if (folder / "val").is_dir() else folder / "test"
