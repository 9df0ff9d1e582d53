"""Image files of any kind, decoded without trust to RGB."""

from __future__ import annotations

import io
import warnings

import numpy as np
import PIL
from PIL import ExifTags, Image, UnidentifiedImageError

from groupnorm.data.issues import DataError

LARGEST_FILE = 1 << 28  # bytes
LARGEST_PIXELS = 1 << 26  # what is larger is a decompression bomb
LONGEST_SIDE = 200  # times the other side; resizing the short side would blow up what is longer
# The formats behind the file names that count as images, and GIF: some of Pets' .jpg files are.
# No others: some of Pillow's run programs.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP")

IMAGE_DECODERS = {"pillow": PIL.__version__}
"""The library that decodes and resizes images, and its version."""


class UnreadableError(Exception):
    """The file is there, but is no image that can be decoded; the message says why."""


def read_rgb(path: str) -> tuple[Image.Image, bool]:
    """Decode an image: its first frame, in RGB, as stored (an EXIF rotation is not applied).

    Grey, palette, CMYK and other colour spaces are converted; alpha is dropped, the colour below
    it stays; 16-bit grey is scaled to 8 bits.

    Returns:
        the image, mode RGB, and whether it had to be converted from another mode.

    Raises:
        UnreadableError: empty, truncated or damaged; not an image of `FORMATS`; too large, or too
            long for its width; 32-bit integer or floating-point pixels, whose range nobody knows.
        DataError: the file cannot be opened or read at all.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    if not data:
        raise UnreadableError("the file is empty")
    if len(data) > LARGEST_FILE:
        raise UnreadableError(f"the file has more than {LARGEST_FILE:,} bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata; size is checked here
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                check_size(*image.size)
                mode = image.mode  # decoding may change it
                return _to_rgb(image), mode != "RGB"
    except (UnreadableError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise UnreadableError(f"not an image in {', '.join(FORMATS)}") from None
    except Exception as error:  # a damaged image can raise nearly anything
        raise UnreadableError(f"{type(error).__name__}: {error}") from error


def is_turned(image: Image.Image) -> bool:
    """Whether EXIF says that an image which `read_rgb` gave is to be shown turned or mirrored."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
    except Exception:  # damaged metadata can raise nearly anything
        return False


def check_size(width: int, height: int, largest: int = LARGEST_PIXELS) -> None:
    """Raise UnreadableError for no pixels, more than `largest`, or a side far longer."""
    short, long = sorted((width, height))
    if short < 1 or short * long > largest:
        raise UnreadableError(f"{width} x {height} pixels, expected 1 to {largest:,} in all")
    if long > LONGEST_SIDE * short:
        raise UnreadableError(
            f"{width} x {height} pixels, expected no side over {LONGEST_SIDE} times the other"
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise UnreadableError("floating-point pixels")
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise UnreadableError("integer pixels beyond 16 bits")
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    # convert() decodes; for RGB it gives a copy that outlives the file
    return image.convert("RGB")
