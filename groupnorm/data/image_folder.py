"""imagefolder: any images, one folder for each class, in `train/` and `val/` (or `test/`)."""

from __future__ import annotations

from pathlib import Path

from groupnorm.data.image_files import ImageFiles, Listing, list_files
from groupnorm.data.image_set import DataError
from groupnorm.data.places import first_match, search_folders

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
        DataError: no folder has them; the message lists where was looked.
    """

    def match(folder: Path) -> Path | None:
        for place in (folder, folder / NAME):
            if (place / "train").is_dir() and _test_folder(place).is_dir():
                return place
        return None

    return str(first_match(_WHAT, search_folders(root), match, HOW_TO_GET))


def load(root: Path | None = None) -> ImageFiles:
    """The images of a folder. Classes are the folders' names, sorted; files are sorted by path.

    Where there are both, `val/` is taken and `test/` is left alone.

    Raises:
        DataError: not found, a class without images, or other classes in the two splits.
    """
    folder = Path(find(root))
    test_folder = _test_folder(folder)
    train, classes = list_classes(folder / "train")
    test, test_classes = list_classes(test_folder)
    check_same_classes(folder / "train", classes, test_folder, test_classes)
    return list_files(NAME, folder, train, test, classes)


def list_classes(folder: Path) -> tuple[Listing, list[str]]:
    """Path and label of every image below `folder`/<class>, and the classes, sorted by name.

    What counts as an image follows from the file name (torchvision's list: jpg, jpeg, png, ppm,
    bmp, pgm, tif, tiff, webp).

    Raises:
        DataError: no classes, a class without images, an unreadable folder; no torchvision.
    """
    try:
        from torchvision.datasets import ImageFolder
    except ModuleNotFoundError:
        raise DataError(
            "image folders are read with torchvision, which is not installed; install it with: "
            "pip install 'groupnorm[study]'"
        ) from None
    try:
        listed = ImageFolder(str(folder))
    except OSError as error:
        raise DataError(f"cannot list the images in {folder}: {error}") from error
    return listed.samples, listed.classes


def check_same_classes(
    train: Path, train_classes: list[str], test: Path, test_classes: list[str]
) -> None:
    """Raise DataError unless both folders have the same classes."""
    if train_classes != test_classes:
        missing = sorted(set(train_classes) - set(test_classes))
        extra = sorted(set(test_classes) - set(train_classes))
        raise DataError(
            f"{train} has {len(train_classes)} classes and {test} has {len(test_classes)}; "
            f"expected the same. Only in the first: {_some(missing)}; "
            f"only in the second: {_some(extra)}"
        )


def _test_folder(folder: Path) -> Path:
    return folder / "val" if (folder / "val").is_dir() else folder / "test"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more if names else "none"
