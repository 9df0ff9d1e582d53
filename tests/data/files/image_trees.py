"""Small data sets of real image files in the layouts of the real ones."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from groupnorm.data.files.listing import list_files


def photo(seed=0, size=(40, 30)):
    """A smooth RGB picture, another one for every seed; size is width and height."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encoded(image, kind="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_of_size(width, height):
    """The head of a PNG that promises so many pixels."""
    data = encoded(photo(), "PNG")
    head = data[12:16] + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]


def write(path: Path, data) -> str:
    """Write bytes, or an image as JPEG, and the folders above."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else encoded(data))
    return str(path)


def class_folders(root, classes=("cat", "dog"), images=3, name="{}.jpg", seed=0):
    """`images` photographs in root/<class>/ for each class."""
    for number in range(images * len(classes)):
        label, index = divmod(number, images)
        write(root / classes[label] / name.format(index), photo(seed + number))
    return root


BROKEN = b"\xff\xd8\xff\xe0 no photograph"


def mixed_set(root, train=12, test=7, broken_train=(), broken_test=(), grey=()):
    """ImageFiles of photographs, some of them broken or (in both splits) grey.

    The label is the number modulo 3.
    """
    listings = {}
    for split, count, broken in (("train", train, broken_train), ("test", test, broken_test)):
        listings[split] = []
        for number in range(count):
            picture = photo(number + 1000 * (split == "test"))
            content = (
                BROKEN if number in broken else picture.convert("L") if number in grey else picture
            )
            path = write(root / f"{split}/{number}.jpg", content)
            listings[split].append((path, number % 3))
    return list_files("toy", root, listings["train"], listings["test"], ["a", "b", "c"])
