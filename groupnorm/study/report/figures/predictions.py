"""The sheet of predictions: a row for each of a few test images, the truth and each arm beside it.

It is made of photographs, and so a raster image, in its file as in the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from groupnorm.counts import counted
from groupnorm.data.detection.drawing import draw_objects, drawn_object
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
from groupnorm.study.results.format import decimal_text
from groupnorm.study.results.labels import row_name
from groupnorm.study.results.rows import Row, Study
from groupnorm.study.results.samples import Samples
from groupnorm.study.store import SAMPLES_FILE, StoreError

TRUTH = "truth"
_CELL = 288  # pixels of a column
_GAP = 8
_LETTERS = 26  # pixels of a name above a column


def prediction_sheet(
    out: Path, study: Study, rows: Sequence[Row], samples: Samples | None, column: Column | None
) -> Sheet | None:
    """The sheet of the study in `out`; None where nothing was predicted.

    Args:
        column: the file says that it is as wide as one column of a paper or as both; None: it has
            300 dots an inch.

    Raises:
        StoreError: an image is missing or damaged, or an object cannot be drawn.
    """
    shown = {} if samples is None else _arms(study, rows, samples)
    if samples is None or not shown:
        return None
    count = min(ROWS, len(samples.images))
    names, runs = [TRUTH, *shown], list(shown.values())
    picture = _compose(names, [_row(out, samples, number, runs) for number in range(count)])
    caption = (
        f"{first_ones(samples, count)}: the truth, and what each arm finds with a score of at "
        f"least {decimal_text(samples.lowest_score, 2)}. {no_choice(samples, 'An arm')} Colours "
        "are categories, numbers are scores; what is found in a crowd counts neither way."
    )
    return Sheet(
        "Predictions on test images", caption,
        f"{counted(count, 'test image')} with boxes and masks: {', '.join(names)}",
        len(names), png_file(picture, column),
    )  # fmt: skip


def _arms(study: Study, rows: Sequence[Row], samples: Samples) -> dict[str, str]:
    """The run that stands for each arm, by what the report calls the arm."""
    found = {
        row_name(study, row): [name for name in row.runs if name in samples.runs] for row in rows
    }
    return {name: runs[0] for name, runs in found.items() if runs}


def _row(out: Path, samples: Samples, number: int, runs: Sequence[str]) -> list[Image.Image]:
    """An image with the truth, and with what each run found in it."""
    pixels = sampled_pixels(out, samples, number)
    truth = samples.images[number]["truth"]
    found = [samples.runs[name]["objects"][number] for name in runs]
    try:
        return [_drawn(pixels, objects, samples.categories) for objects in (truth, *found)]
    except ValueError as error:
        raise StoreError(f"{out / SAMPLES_FILE} has {error}. {make_again(out)}") from None


def _drawn(
    pixels: NDArray[np.uint8], objects: Sequence[dict[str, Any]], categories: Sequence[str]
) -> Image.Image:
    """An image with its objects, as wide as a column."""
    height, width = pixels.shape[:2]
    drawn = [drawn_object(entry, categories, height, width) for entry in objects]
    drawn = [
        replace(one, text=f"{one.text} (crowd)") if entry.get("crowd") else one
        for one, entry in zip(drawn, objects, strict=True)
    ]
    picture = Image.fromarray(draw_objects(pixels, drawn, max(1, round(_CELL / width))))
    tall = max(1, round(picture.height * _CELL / picture.width))
    return picture.resize((_CELL, tall), Image.Resampling.LANCZOS)


def _compose(names: Sequence[str], rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """All images in rows on white, with a name above each column."""
    font = letters(_LETTERS)
    titles = [in_lines(name, font, _CELL - _GAP) for name in names]
    line = round(1.2 * _LETTERS)
    top = line * max(map(len, titles)) + _GAP
    heights = [max(picture.height for picture in row) for row in rows]
    size = (
        len(names) * (_CELL + _GAP) - _GAP,
        top + sum(heights) + _GAP * (len(heights) - 1),
    )
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for place, title in enumerate(titles):
        for number, text in enumerate(reversed(title), 1):
            corner = (place * (_CELL + _GAP), top - _GAP - number * line)
            draw.text(corner, text, fill="black", font=font)
    for row, height in zip(rows, heights, strict=True):
        for place, picture in enumerate(row):
            sheet.paste(picture, (place * (_CELL + _GAP), top))
        top += height + _GAP
    return sheet
