"""What sheets of photographs share: the file, the images that they are made of, their letters."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.font_manager import FontProperties, findfont
from numpy.typing import NDArray
from PIL import Image, ImageFont

from groupnorm.counts import counted
from groupnorm.data.files.decode import UnreadableError, read_rgb
from groupnorm.data.issues import DataError
from groupnorm.study.report.figures.render import COLUMN_WIDTHS, FONT, PNG_DPI, Column
from groupnorm.study.results.samples import Samples
from groupnorm.study.store import SAMPLES_FILE, StoreError

ROWS = 6
"""So many images or videos at most make a sheet."""


@dataclass(frozen=True)
class Sheet:
    """A sheet as a figure of the report: `png` is its file; `columns` of names are beside it."""

    title: str
    caption: str
    alt: str
    columns: int
    png: bytes
    name: str = "predictions"


def first_ones(samples: Samples, count: int) -> str:
    """What stands first in a sheet's caption: how many images or videos it shows, and of how many.

    Args:
        count: of those that are shown.
    """
    kept = len(samples.images)
    of = f" of the {kept} that were kept" if count < kept else ""
    return f"The first {counted(count, samples.things)}{of}"


def no_choice(samples: Samples, what: str) -> str:
    """That neither examples nor runs were chosen by results; `what` is "An arm", say."""
    return (
        f"{what} is its first seed that finished; results had no part in the choice of "
        f"{samples.things.split()[1]}s and seeds."
    )


def letters(size: int) -> ImageFont.FreeTypeFont:
    """The font of the figures, of so many pixels."""
    return ImageFont.truetype(findfont(FontProperties(family=FONT)), size)


def in_lines(name: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """A name in lines that are no wider than `width` pixels, where its words allow it."""
    lines = [""]
    for word in name.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def png_file(picture: Image.Image, column: Column | None) -> bytes:
    """The file of a sheet.

    Args:
        column: it says that it is as wide as one column of a paper or as both; None: it has 300
            dots an inch.
    """
    buffer = io.BytesIO()
    dpi = picture.width / COLUMN_WIDTHS[column] if column else float(PNG_DPI)
    picture.save(buffer, "PNG", dpi=(dpi, dpi))
    return buffer.getvalue()


def sampled_pixels(out: Path, samples: Samples, number: int) -> NDArray[np.uint8]:
    """An image of the folder `samples`, (height, width of all its frames, 3).

    Raises:
        StoreError: it is missing or damaged.
    """
    path, image = samples.path(out, number), samples.images[number]
    try:
        pixels = np.asarray(read_rgb(str(path))[0])
    except (UnreadableError, DataError) as error:
        raise StoreError(f"{path} cannot be shown: {error}. {make_again(out)}") from None
    height, width = image["height"], image["width"] * image.get("frames", 1)
    if pixels.shape[:2] != (height, width):
        raise StoreError(
            f"{path} has {pixels.shape[0]} x {pixels.shape[1]} pixels, expected "
            f"{height} x {width} by {SAMPLES_FILE}. {make_again(out)}"
        )
    return pixels


def make_again(out: Path) -> str:
    """What to do about a damaged folder `samples`, as a clause."""
    return (
        f"Delete {(out / SAMPLES_FILE).parent}: the report then has no sheet of predictions, and "
        "the command of the study makes it again from the checkpoints"
    )
