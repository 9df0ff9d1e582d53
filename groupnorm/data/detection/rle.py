"""COCO's run-length encoding of masks, decoded with every size checked.

The runs count pixels down the columns, column after column, and alternate between outside and
inside, beginning outside. In a file they are a list of numbers, or a string: each number, less the
one before last from the fourth on, in groups of five bits with a sign, one character a group
(`rleToString` of pycocotools' maskApi.c).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Runs = NDArray[np.int64]
Mask = NDArray[np.uint8]
_LONGEST_NUMBER = 6  # characters: 30 bits, and no run is longer than an image's 2**26 pixels


def parse(segmentation: dict[str, Any], height: int, width: int) -> Runs:
    """The runs of a segmentation {"size": [H, W], "counts": [...] or "..."} from a file.

    Raises:
        ValueError: it is no mask of an image of this size; the message says why.
    """
    size = segmentation.get("size")
    if size != [height, width]:
        raise ValueError(f"its mask has size {size!r}, the image [{height}, {width}]")
    counts = segmentation.get("counts")
    if isinstance(counts, str | bytes):
        runs = from_string(counts)
    elif isinstance(counts, list) and all(type(count) is int for count in counts):
        if any(not 0 <= count <= height * width for count in counts):
            raise ValueError("a run of its mask is negative or longer than the image")
        runs = np.array(counts, np.int64)
    else:
        raise ValueError("the counts of its mask are neither a string nor whole numbers")
    if len(runs) and not 0 <= runs.min() <= runs.max() <= height * width:
        raise ValueError("a run of its mask is negative or longer than the image")
    if runs.sum() != height * width:
        raise ValueError(
            f"the runs of its mask have {runs.sum():,} pixels, the image {height * width:,}"
        )
    return runs


def from_string(text: str | bytes) -> Runs:
    """The runs of a compressed string, whatever their sum.

    Raises:
        ValueError: a character that does not belong there, a number that is too long, or one
            without its end.
    """
    try:
        raw = text.encode("ascii") if isinstance(text, str) else text
    except UnicodeEncodeError:
        raise ValueError("its mask's string has characters outside ASCII") from None
    codes = np.frombuffer(raw, np.uint8).astype(np.int64) - 48
    if not len(codes):
        return codes
    if codes.min() < 0 or codes.max() > 63:
        raise ValueError("its mask's string has characters that do not belong there")
    ends = np.flatnonzero((codes & 32) == 0)
    if not len(ends) or ends[-1] != len(codes) - 1:
        raise ValueError("its mask's string is cut off")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _LONGEST_NUMBER:
        raise ValueError("its mask's string has a number that is too long")
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    runs: Runs = np.add.reduceat((codes & 31) << shifts, starts)
    runs -= np.where(codes[ends] & 16, 1 << (5 * lengths), 0)
    for parity in (1, 2):  # the first number stands alone
        np.cumsum(runs[parity::2], out=runs[parity::2])
    return runs


def to_string(runs: Runs) -> str:
    """The compressed string of runs."""
    values = runs.astype(np.int64)
    values[3:] -= runs[1:-2]
    columns, there = [], []
    more = np.ones(len(values), np.bool_)
    while more.any():
        there.append(more)
        codes = values & 31
        values >>= 5
        more = more & np.where(codes & 16, values != -1, values != 0)
        columns.append(codes + np.where(more, 32, 0) + 48)
    if not columns:
        return ""
    characters = np.stack(columns, axis=1)[np.stack(there, axis=1)]
    return characters.astype(np.uint8).tobytes().decode("ascii")


def decode(runs: Runs, height: int, width: int) -> Mask:
    """Runs of H * W pixels -> uint8 (H, W), 1 inside."""
    mask = np.zeros((height, width), np.uint8)
    # Whole columns outside, on the left and on the right, are left as they are.
    left = int(runs[0]) // height
    right = int(runs[-1]) // height if len(runs) % 2 and len(runs) > 1 else 0
    inner = runs.copy()
    inner[0] -= left * height
    inner[-1] -= right * height
    values = (np.arange(len(runs)) & 1).astype(np.uint8)
    columns = slice(left, width - right)
    mask[:, columns] = np.repeat(values, inner).reshape(-1, height).T
    return mask


def encode(mask: NDArray[Any]) -> Runs:
    """A mask (H, W) of at least one pixel, bool or numbers that are 0 outside -> its runs."""
    flat = np.ravel(mask.astype(np.bool_, copy=False), order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    first = [0, 0] if flat[0] else [0]
    return np.diff(np.concatenate([first, changes, [len(flat)]])).astype(np.int64)


def to_json(runs: Runs, height: int, width: int) -> dict[str, Any]:
    """The runs of a mask (H, W) as annotation files and results have them."""
    return {"size": [height, width], "counts": to_string(runs)}


def area(runs: Runs) -> int:
    """The number of pixels inside."""
    return int(runs[1::2].sum())
