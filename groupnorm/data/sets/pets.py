"""pets: Oxford-IIIT Pets (Parkhi et al., CVPR 2012), 37 breeds, in the official split."""

from __future__ import annotations

import re
from pathlib import Path

from groupnorm.data.files.listing import ImageFiles, Listing, list_files
from groupnorm.data.issues import DataError
from groupnorm.data.paths import first_match, search_folders

NAME = "pets"
NUM_CLASSES = 37
_SUBFOLDERS = ("", "oxford-iiit-pet", "pets")
_SPLITS = {"train": "annotations/trainval.txt", "test": "annotations/test.txt"}
_WHAT = f"{NAME} (images/, {' and '.join(_SPLITS.values())})"
# image, class from 1, 1 cat or 2 dog, breed among cats or dogs
_LINE = re.compile(r"(([A-Za-z_]+)_\d+) (\d{1,2}) [12] \d{1,2}")
HOW_TO_GET = (
    "Get it with: python -c \"import torchvision; torchvision.datasets.OxfordIIITPet('data', "
    'download=True)", or unpack https://www.robots.ox.ac.uk/~vgg/data/pets/data/images.tar.gz and '
    "annotations.tar.gz from the same place into ./data/oxford-iiit-pet"
)


def find(root: Path | None = None) -> str:
    """The folder that holds `images/` and `annotations/`.

    Raises:
        DataError: no folder has them; the message says where it looked.
    """

    def match(folder: Path) -> Path | None:
        for below in _SUBFOLDERS:
            path = folder / below
            if (path / "images").is_dir() and all(
                (path / split).is_file() for split in _SPLITS.values()
            ):
                return path
        return None

    return str(first_match(_WHAT, search_folders(root), match, HOW_TO_GET))


def load(root: Path | None = None) -> ImageFiles:
    """3,680 training images (`trainval.txt`) and 3,669 test images of 37 breeds.

    Raises:
        DataError: not found, a split file with another content, or an image it names is missing.
    """
    folder = Path(find(root))
    names: dict[int, str] = {}
    splits = {split: _read_split(folder, file, names) for split, file in _SPLITS.items()}
    if sorted(names) != list(range(NUM_CLASSES)):
        raise DataError(
            f"{folder / 'annotations'}: expected classes 1 to {NUM_CLASSES}, got {len(names)}; "
            f"{HOW_TO_GET}"
        )
    class_names = [names[label] for label in range(NUM_CLASSES)]
    return list_files(NAME, folder, splits["train"], splits["test"], class_names)


def _read_split(folder: Path, file: str, names: dict[int, str]) -> Listing:
    """Path and label of every line; the classes' names are entered in `names`."""
    path = folder / file
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}. {HOW_TO_GET}") from error
    listing = []
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise DataError(
                f"{path}, line {number}: expected a line as 'Abyssinian_100 1 1 1', got {line!r}"
            )
        label = int(match[3]) - 1
        name = match[2].replace("_", " ").title()
        if names.setdefault(label, name) != name:
            raise DataError(
                f"{path}, line {number}: class {match[3]} is both {names[label]} and {name}"
            )
        listing.append((str(folder / "images" / f"{match[1]}.jpg"), label))
    return listing
