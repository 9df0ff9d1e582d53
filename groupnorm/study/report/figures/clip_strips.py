"""The sheet of clips: frames of a few test videos with the truth and what each norm takes them for.

It is made of photographs, and so a raster image, in its file as in the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from groupnorm.counts import counted
from groupnorm.study.report.figures.render import Column
from groupnorm.study.report.figures.sheet import (
    ROWS,
    Sheet,
    first_ones,
    in_lines,
    letters,
    make_again,
    no_choice,
    png_file,
    sampled_pixels,
)
from groupnorm.study.results.clips import Clip, clips_of, families, line_name, lines_of
from groupnorm.study.results.format import decimal_text
from groupnorm.study.results.rows import Row, Study
from groupnorm.study.results.samples import Samples
from groupnorm.study.store import SAMPLES_FILE, StoreError

_IN_A_ROW = 8  # frames
_FRAME, _CELL = 80, 240  # pixels of the width of a frame, and of a column of classes
_SPACE, _GAP = 2, 16  # pixels between frames, and between all else
_LETTERS = 26
_LINE = round(1.3 * _LETTERS)
_TRUTH = "truth"
_INK, _SOFT, _WRONG = "#000000", "#5a5a5a", "#a33800"
_MARKS = {True: "\u2713", False: "\u2717"}


@dataclass(frozen=True)
class _Column:
    """What stands below one name: by the length of the clips the run that predicted with them."""

    name: str
    runs: dict[Clip, str]


def clip_sheet(
    out: Path, study: Study, rows: Sequence[Row], samples: Samples | None, column: Column | None
) -> Sheet | None:
    """The sheet of the study in `out`; None where nothing was predicted.

    Args:
        column: the file says that it is as wide as one column of a paper or as both; None: it has
            300 dots an inch.

    Raises:
        StoreError: an image is missing or damaged, or has a class that is none of the study's.
    """
    columns = [] if samples is None else _columns(study, rows, samples)
    if samples is None or not columns:
        return None
    clips = [clip for clip in clips_of(rows) if any(clip in one.runs for one in columns)]
    count = min(ROWS, len(samples.images))
    _check_classes(out, samples)
    strips = [_strip(sampled_pixels(out, samples, n), samples.images[n]) for n in range(count)]
    picture = _compose(columns, clips, strips, samples)
    frames = max(image["frames"] for image in samples.images[:count])
    caption = (
        f"{first_ones(samples, count)}: {frames} frames of the middle clip at "
        "equal distances, from left to right and from top to bottom, their class, and what each "
        "norm takes them for, with the probability that it gives, averaged over the clips of the "
        f"test. {no_choice(samples, 'A norm')}"
    )
    names = [one.name for one in columns]
    return Sheet(
        "Predictions on test videos", caption,
        f"Frames of {counted(count, 'test video')} with classes: truth, {', '.join(names)}",
        len(columns) + 5, png_file(picture, column),
    )  # fmt: skip


def _columns(study: Study, rows: Sequence[Row], samples: Samples) -> list[_Column]:
    """Every line of the main figure of which a run has predicted."""
    found = []
    for family in families(rows):
        for line in lines_of(family):
            known = {c: [n for n in row.runs if n in samples.runs] for c, row in line.rows.items()}
            runs = {clip: names[0] for clip, names in known.items() if names}
            if runs:
                found.append(_Column(line_name(study, line), runs))
    return found


def _check_classes(out: Path, samples: Samples) -> None:
    """Check that every class, of the truth and of a prediction, is one of the study's."""
    named = [image["truth"] for image in samples.images]
    named += [o["category"] for r in samples.runs.values() for one in r["objects"] for o in one]
    for name in named:
        if name not in samples.categories:
            raise StoreError(
                f"{out / SAMPLES_FILE} has {name!r}, which is none of its categories. "
                f"{make_again(out)}"
            )


def _strip(pixels: NDArray[np.uint8], image: dict[str, Any]) -> Image.Image:
    """The frames of a video in rows of `_IN_A_ROW`, enlarged without smoothing if small."""
    height, width, count = image["height"], image["width"], image["frames"]
    tall = max(1, round(_FRAME * height / width))
    how = Image.Resampling.NEAREST if width < _FRAME else Image.Resampling.LANCZOS
    lines = -(-count // _IN_A_ROW)
    size = (
        min(count, _IN_A_ROW) * (_FRAME + _SPACE) - _SPACE, lines * (tall + _SPACE) - _SPACE
    )  # fmt: skip
    strip = Image.new("RGB", size, "white")
    for number in range(count):
        own = pixels[:, number * width : (number + 1) * width]
        frame = Image.fromarray(np.ascontiguousarray(own))
        corner = (number % _IN_A_ROW) * (_FRAME + _SPACE), (number // _IN_A_ROW) * (tall + _SPACE)
        strip.paste(frame.resize((_FRAME, tall), how), corner)
    return strip


def _compose(
    columns: Sequence[_Column],
    clips: Sequence[Clip],
    strips: Sequence[Image.Image],
    samples: Samples,
) -> Image.Image:
    """All strips below each other on white, and beside each a line for each length of the clips."""
    font = letters(_LETTERS)
    titles = [in_lines(one.name, font, _CELL - _GAP) for one in columns]
    lengths = [f"{clip.frames} frames" for clip in clips]
    first = round(max(map(font.getlength, (_TRUTH, *samples.categories, *lengths)))) + _GAP
    left = max(strip.width for strip in strips) + _GAP
    top = _LINE * max(map(len, titles)) + _GAP
    tall = [max(strip.height, _LINE * (1 + len(clips))) for strip in strips]
    size = left + first + _CELL * len(columns), top + sum(tall) + _GAP * (len(tall) - 1)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((left, top - _GAP - _LINE), _TRUTH, fill=_INK, font=font)
    for place, title in enumerate(titles):
        for number, text in enumerate(reversed(title), 1):
            corner = left + first + place * _CELL, top - _GAP - number * _LINE
            draw.text(corner, text, fill=_INK, font=font)
    for number, (strip, height) in enumerate(zip(strips, tall, strict=True)):
        truth: str = samples.images[number]["truth"]
        sheet.paste(strip, (0, top))
        draw.text((left, top), truth, fill=_INK, font=font)
        for line, (clip, length) in enumerate(zip(clips, lengths, strict=True), 1):
            y = top + line * _LINE
            draw.text((left, y), length, fill=_SOFT, font=font)
            for place, one in enumerate(columns):
                text, color = _told(one, clip, samples, number, truth)
                draw.text((left + first + place * _CELL, y), text, fill=color, font=font)
        top += height + _GAP
    return sheet


def _told(
    column: _Column, clip: Clip, samples: Samples, number: int, truth: str
) -> tuple[str, str]:
    """What a run takes a video for, with its probability and whether it is right, and a colour."""
    if clip not in column.runs:
        return "\u2013", _SOFT
    found = samples.runs[column.runs[clip]]["objects"][number]
    if not found:
        return "no number", _WRONG
    (best,) = found
    right = best["category"] == truth
    share = decimal_text(100 * best["score"], 0)
    return f"{_MARKS[right]} {best['category']} {share} %", _INK if right else _WRONG
