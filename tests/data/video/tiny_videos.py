"""A set of 8x8 videos in memory: a bright column that moves right or left over noise, or stays.

At stride 2 the last two classes are one: a column that stays, and one that is away in every second
frame.
"""

from dataclasses import replace

import torch

from groupnorm.data import VideoSet
from groupnorm.data.files.listing import list_files
from groupnorm.data.video.listing import VideoFiles

CLASSES = ("right", "left", "stay", "blink")
FLIP_LABELS = (1, 0, 2, 3)
RAW, SIDE = 10, 8


def videos(count, seed, frames=RAW):
    """uint8 (count, frames, 8, 8, 3) and labels, one class after the other."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, frames, SIDE, SIDE, 3)
    pixels = torch.randint(0, 100, shape, generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % len(CLASSES)
    first = torch.randint(0, SIDE, (count,), generator=generator)
    for video, label in enumerate(labels.tolist()):
        for frame in range(frames):
            step = {0: frame, 1: -frame}.get(label, 0)
            if label != 3 or frame % 2:
                pixels[video, frame, :, (int(first[video]) + step) % SIDE] += 150
    return pixels, labels


def tiny_videos(train=24, test=11, **changes):
    (train_videos, train_labels), (test_videos, test_labels) = videos(train, 0), videos(test, 1)
    fields = {
        "name": "columns", "version": "1", "train_videos": train_videos,
        "train_labels": train_labels, "test_videos": test_videos, "test_labels": test_labels,
        "class_names": CLASSES, "flip_labels": FLIP_LABELS,
    }  # fmt: skip
    return VideoSet(**{**fields, **changes})


ENTRY = ("tests.data.video.tiny_videos", "load", "find")
"""For `groupnorm.data.catalog`, so that the set has a name."""


def load(root):
    return tiny_videos()


def find(root):
    return "in memory"


FILES_ENTRY = ("tests.data.video.tiny_videos", "load_files", "find")
"""Likewise for the same videos as files, which stand in the folder of the data."""


def write_files(folder, **counts):
    """The videos as files without loss, in a folder for each split."""
    from groupnorm.data.video.writer import encode_video

    data = tiny_videos(**counts)
    for split, found in (("train", data.train_videos), ("test", data.test_videos)):
        (folder / split).mkdir(parents=True)
        for number, frames in enumerate(found.numpy()):
            (folder / split / f"{number}.mkv").write_bytes(encode_video(frames))


def load_files(folder):
    """The `VideoFiles` of a folder that `write_files` has filled; frames are taken whole."""
    listings = {}
    for split in ("train", "test"):
        paths = sorted((folder / split).iterdir(), key=lambda path: int(path.stem))
        listings[split] = [(str(path), int(path.stem) % len(CLASSES)) for path in paths]
    files = list_files(
        "columns-files", folder, listings["train"], listings["test"], list(CLASSES),
        kind=VideoFiles,
    )  # fmt: skip
    return replace(
        files, flip_labels=FLIP_LABELS, frame_size=SIDE, mean=(0.25,) * 3, std=(0.2,) * 3
    )
