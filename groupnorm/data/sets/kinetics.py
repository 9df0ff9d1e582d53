"""kinetics: Kinetics-400 (Kay et al., arXiv 1705.06950), and any other videos in its layout.

One folder for each class, in `train/` and `val/` (or `test/`). A horizontal flip keeps the label,
as in the non-local networks' baseline.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from groupnorm.data.files.class_folders import VIDEOS, list_splits, match_classes
from groupnorm.data.files.listing import list_files
from groupnorm.data.files.splits import evaluation_folder, find_splits
from groupnorm.data.paths import search_folders
from groupnorm.data.video.listing import VideoFiles

NAME = "kinetics"
_SUBFOLDERS = ("", NAME, "kinetics400", "k400")
_WHAT = f"{NAME} (train/<class>/*.mp4 and val/<class>/*.mp4 or test/<class>/*.mp4)"
HOW_TO_GET = (
    "Get it with: k400_downloader.sh, k400_extractor.sh and arrange_by_classes.py of "
    "https://github.com/cvdfoundation/kinetics-dataset, so that train/ and val/ in ./data/kinetics "
    "(or in kinetics/ in the folder of --data-root or GROUPNORM_DATA) have a folder of videos for "
    "each class. Videos of your own have the same layout"
)


def find(root: Path | None = None) -> str:
    """The folder that holds `train/` and `val/` or `test/`.

    Raises:
        DataError: no folder has them; the message says where it looked.
    """
    return str(find_splits(_WHAT, search_folders(root), _SUBFOLDERS, HOW_TO_GET))


def load(root: Path | None = None) -> VideoFiles:
    """The videos of a folder. Classes are the folders' names, sorted; files are sorted by path.

    Where there are both, `val/` is taken and `test/` is left alone. No video is opened.

    Raises:
        DataError: not found, a single class, a class without videos, a test class that is not in
            `train/`, or a link by which videos are there twice.
    """
    folder = Path(find(root))
    train, test = list_splits(folder / "train", evaluation_folder(folder), VIDEOS)
    test_listing, notes = match_classes(train, test)
    notes = [*train.notes(), *test.notes(), *notes]
    files = list_files(
        NAME, folder, train.listing, test_listing, train.classes, notes, kind=VideoFiles
    )
    return replace(files, flip_labels=tuple(range(files.num_classes)))
