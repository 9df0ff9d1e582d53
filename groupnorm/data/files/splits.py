"""The folders of a data set's splits, `train/` and `val/` or `test/`: where they are found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from groupnorm.data.files.class_folders import subfolders
from groupnorm.data.paths import first_match

_OTHER_NAMES = {
    "train": ("train", "training", "training_set"),
    "val": ("val", "valid", "validation", "validation_set"),
    "test": ("test", "testing", "test_set"),
}


def find_splits(what: str, folders: Sequence[Path], below: Sequence[str], how_to_get: str) -> Path:
    """The first folder that holds `train/`, and `val/` or `test/`.

    Args:
        what: the files' names, for the message.
        folders: where to look, in order.
        below: subfolders of each to look in; "" is the folder itself.
        how_to_get: the end of the message.

    Raises:
        DataError: no folder has them; the message says where it looked.
    """

    def match(folder: Path) -> Path | None:
        for path in (folder / name for name in below):
            if (path / "train").is_dir() and evaluation_folder(path).is_dir():
                return path
        return None

    def hint(folder: Path) -> str:
        return next(filter(None, (_hint(folder / name) for name in below)), "")

    return first_match(what, folders, match, how_to_get, hint)


def evaluation_folder(folder: Path) -> Path:
    """`val/` where it is there, else `test/`."""
    return folder / "val" if (folder / "val").is_dir() else folder / "test"


def _hint(path: Path) -> str:
    """What to do with folders of other names, or without splits."""
    if not path.is_dir():
        return ""
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
