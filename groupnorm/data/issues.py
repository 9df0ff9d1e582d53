"""What is wrong with data: DataError for a whole set, and single files counted and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from groupnorm.counts import counted


class DataError(RuntimeError):
    """Data is missing or damaged; the message says what was looked for, where, how to get it."""


Issues = dict[str, dict[str, str]]
"""Kind of issue, as "replaced_images" -> file -> what is wrong with it."""
UNREADABLE_IMAGES = ("replaced_images", "left_out_images")
UNREADABLE_VIDEOS = ("replaced_videos", "left_out_videos")
UNREADABLE = UNREADABLE_IMAGES + UNREADABLE_VIDEOS
"""The kinds of files that could not be decoded: in training, and in evaluation."""
SHORT_VIDEOS, ROTATED_VIDEOS = "short_videos", "rotated_videos"
"""The kinds of files that are used, but not as they are."""


def describe_unreadable(counts: Mapping[str, int]) -> str:
    """The counts of an epoch's metrics in a sentence; "" when every file could be decoded."""
    parts = []
    for noun, kinds in (("image", UNREADABLE_IMAGES), ("video", UNREADABLE_VIDEOS)):
        replaced, left_out = (counts.get(kind, 0) for kind in kinds)
        if replaced:
            others = "replaced by others of the same class"
            parts.append(f"{counted(replaced, f'training {noun}')} {others}")
        if left_out:
            parts.append(f"{counted(left_out, f'test {noun}')} left out")
    return f"files that cannot be decoded: {', '.join(parts)}" if parts else ""


def describe_altered(counts: Mapping[str, int]) -> dict[str, str]:
    """The videos of an epoch's metrics that are not used as they are: kind -> a sentence."""
    texts = {
        SHORT_VIDEOS: "with fewer frames than a clip takes: the last is repeated",
        ROTATED_VIDEOS: "stored in another orientation: turned upright",
    }
    return {
        kind.replace("_", " "): f"{counted(counts[kind], 'video')} {text}"
        for kind, text in texts.items()
        if counts.get(kind)
    }


def first_few(texts: Sequence[str], most: int = 5) -> str:
    """The first of some texts, and how many more there are."""
    more = f" and {len(texts) - most:,} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def some_files(files: Mapping[str, str]) -> str:
    """The first three files, and what is wrong with them."""
    return first_few([f"{path} ({files[path]})" for path in sorted(files)], 3)


def check_share_unreadable(
    gone: Mapping[str, str], size: int, split: str, name: str, largest: float, noun: str = "image"
) -> None:
    """Raise DataError when more than a share `largest` of a split's files cannot be decoded.

    Args:
        gone: those that cannot be decoded, and what is wrong with them.
        size: of the split.
        split: its name in the message, "training" or "test".
        name: of the data set.
        noun: what the files are.
    """
    if len(gone) > round(largest * size, 6):
        raise DataError(
            f"{len(gone):,} of the {size:,} {split} {noun}s of {name} cannot be decoded, which is "
            f"more than {100 * largest:g} %: {some_files(gone)}. "
            "Mend or remove them (a study then needs a new --out), or allow more: "
            "--max-unreadable SHARE (groupnorm train: max_unreadable=SHARE), as 0.05 for 5 %"
        )
