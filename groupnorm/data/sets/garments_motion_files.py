"""garments-motion-files: the videos of garments-motion as files, in the layout of Kinetics.

12,000 files in `train/<class>/` and 2,000 in `val/<class>/`, made on first use. They lose nothing:
their frames are the pixels of garments-motion, video by video. To train through the path of video
files, and to try what reads such files.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from groupnorm.data.files.listing import list_files
from groupnorm.data.paths import cache_folder
from groupnorm.data.sets import garments_motion
from groupnorm.data.sets.garments_motion import CLASSES, FLIP_LABELS, QUICK, VERSION
from groupnorm.data.synthetic.folder import SUMS, make_folder, write_sums
from groupnorm.data.synthetic.sources import find_sources
from groupnorm.data.video.listing import VideoFiles
from groupnorm.data.video.writer import ENDING, encode_video

NAME = "garments-motion-files"
MEAN = (0.32109, 0.29734, 0.28696)
STD = (0.22444, 0.22097, 0.22226)
"""Of the pixels of garments-motion."""
_FOLDERS = {"train": "train", "test": "val"}


def folder() -> Path:
    """Where the finished data set is kept; the name holds the version."""
    return cache_folder() / f"{NAME}-v{VERSION}"


def find(root: Path | None = None) -> str:
    """Where the videos are, or what they will be made from; `root` is not needed.

    Raises:
        DataError: they are not in the cache, and a photograph or the garments are missing.
    """
    if (folder() / SUMS).is_file():
        return str(folder())
    return f"{folder()}, to be made on first use from photographs in {find_sources()}"


def load(root: Path | None = None) -> VideoFiles:
    """The files, which are made (in half a minute) and cached; `root` is not needed.

    Video i of a split is the one with number i in garments-motion. A damaged cache is made again.
    One process makes it; others wait for it.

    Raises:
        DataError: PyAV, a photograph or the garments are missing or damaged, or the cache cannot be
            written.
    """
    make_folder(folder(), NAME, write)
    listings = {
        split: [(str(folder() / name), label) for name, label in _names(split)]
        for split in _FOLDERS
    }
    files = list_files(
        NAME, folder(), listings["train"], listings["test"], CLASSES, kind=VideoFiles
    )
    # the bytes of the files follow from the version of FFmpeg, their frames do not
    return replace(
        files,
        version=str(VERSION),
        flip_labels=FLIP_LABELS,
        mean=MEAN,
        std=STD,
        frame_size=QUICK.canvas,
    )


def write(folder: Path) -> None:
    """Write the data set into an empty folder, with the digests of its files last.

    Raises:
        OSError: it cannot be written.
        DataError: PyAV, a photograph or the garments are missing or damaged.
    """
    for split, inside in _FOLDERS.items():
        for name in CLASSES:
            (folder / inside / name).mkdir(parents=True)
        names = _names(split)
        for (name, _), frames in zip(names, garments_motion.make(split, len(names)), strict=True):
            (folder / name).write_bytes(encode_video(frames))
    write_sums(folder)


def _names(split: str) -> list[tuple[str, int]]:
    """Path in the folder and label of every video of "train" or "test", by number."""
    labels = garments_motion.labels(split, garments_motion.COUNTS[split]).tolist()
    return [
        (f"{_FOLDERS[split]}/{CLASSES[label]}/{number:05}{ENDING}", label)
        for number, label in enumerate(labels)
    ]
