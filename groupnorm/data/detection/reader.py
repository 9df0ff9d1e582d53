"""COCO annotation files, read without trust.

Lin et al., Microsoft COCO, ECCV 2014; the format: https://cocodataset.org/#format-data. A file that
is malformed is one DataError, which names file, annotation and reason. What the format allows and
a detector cannot use is left out, counted and named in the notes: boxes of which less than a pixel
lies in the image, and annotations of images that are not listed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from groupnorm.counts import counted
from groupnorm.data.detection import polygons, rle
from groupnorm.data.detection.annotations import AnnotatedImage, Annotation, Split
from groupnorm.data.detection.targets import Categories
from groupnorm.data.issues import DataError, first_few

LARGEST_JSON = 1 << 31  # bytes; COCO's largest has 470 million
LARGEST_IMAGE = 1 << 26  # pixels, as in files/decode.py
LARGEST_ID = (1 << 63) - 1
_LESS_THAN_A_PIXEL = "of whose box less than a pixel lies in the image"
_UNLISTED = "of images that are not listed"


def read_split(file: Path, folder: Path, *, masks: bool = True) -> tuple[Split, Categories, str]:
    """Read and check an annotation file.

    Args:
        file: JSON.
        folder: of its images, which must be there.
        masks: read the segmentations, too; without, they may be missing or malformed.

    Returns:
        the images, the categories, and a digest of the file and of the sizes of its images.

    Raises:
        DataError: the file or an image is missing, or the file is malformed.
    """
    content = _read(file)
    data = _parse(content, file)
    categories = _categories(_listed(data, "categories", file), file)
    images = _images(_listed(data, "images", file), file)
    found: dict[int, list[Annotation]] = {image.id: [] for image in images}
    left_out: dict[str, list[str]] = defaultdict(list)
    without_area = 0
    known: set[int] = set()
    sizes = {image.id: (image.height, image.width) for image in images}
    for index, entry in enumerate(_listed(data, "annotations", file)):
        number = _id(entry, "id", f"{file}: annotations[{index}]")
        what = f"{file}: annotation {number}"
        if number in known:
            raise DataError(f"{what}: there are two annotations of this id")
        known.add(number)
        image_id = _id(entry, "image_id", what)
        if image_id not in sizes:
            left_out[_UNLISTED].append(str(number))
            continue
        annotation = _annotation(entry, number, categories, sizes[image_id], masks, what)
        x0, y0, x1, y1 = annotation.corners(*sizes[image_id])
        if x1 - x0 < 1 or y1 - y0 < 1:
            left_out[_LESS_THAN_A_PIXEL].append(str(number))
            continue
        without_area += annotation.area is None
        found[image_id].append(annotation)
    notes = [
        f"left out: {counted(len(ids), 'annotation')} of {file.name} {why}: {first_few(ids)}"
        for why, ids in sorted(left_out.items())
    ]
    if without_area:
        notes.append(
            f"{counted(without_area, 'annotation')} of {file.name} without an area: that of the "
            f"{'mask' if masks else 'box'} is taken"
        )
    annotated = tuple(
        AnnotatedImage(i.id, i.file_name, i.height, i.width, tuple(found[i.id])) for i in images
    )
    split = Split(file, folder, annotated, masks, tuple(notes))
    return split, categories, _digest(content, split)


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            content = stream.read(LARGEST_JSON + 1)
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error
    if len(content) > LARGEST_JSON:
        raise DataError(f"{file} has more than {LARGEST_JSON:,} bytes")
    return content


def _parse(content: bytes, file: Path) -> dict[str, Any]:
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is no JSON file: {error}") from error
    if not isinstance(data, dict):
        raise DataError(f"{file}: expected an object with images, annotations and categories")
    return data


def _listed(data: dict[str, Any], key: str, file: Path) -> Iterator[dict[str, Any]]:
    """The objects in a list of the file."""
    entries = data.get(key)
    if not isinstance(entries, list):
        raise DataError(f"{file}: expected a list {key!r}, got {_brief(entries)}")
    if not entries and key != "annotations":
        raise DataError(f"{file}: the list {key!r} is empty")
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise DataError(f"{file}: {key}[{index}]: expected an object, got {_brief(entry)}")
        yield entry


def _categories(entries: Iterator[dict[str, Any]], file: Path) -> Categories:
    found: dict[int, tuple[str, str]] = {}
    for index, entry in enumerate(entries):
        number = _id(entry, "id", f"{file}: categories[{index}]")
        what = f"{file}: category {number}"
        if number in found:
            raise DataError(f"{what}: there are two categories of this id")
        above = _text(entry, "supercategory", what) if "supercategory" in entry else ""
        found[number] = _text(entry, "name", what), above
    ids = tuple(sorted(found))
    return Categories(ids, tuple(found[i][0] for i in ids), tuple(found[i][1] for i in ids))


def _images(entries: Iterator[dict[str, Any]], file: Path) -> list[AnnotatedImage]:
    images: dict[int, AnnotatedImage] = {}
    names: dict[str, int] = {}
    for index, entry in enumerate(entries):
        number = _id(entry, "id", f"{file}: images[{index}]")
        what = f"{file}: image {number}"
        if number in images:
            raise DataError(f"{what}: there are two images of this id")
        name = _text(entry, "file_name", what)
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\0" in name or not path.name:
            raise DataError(f"{what}: expected the name of a file in the folder, got {name!r:.80}")
        if names.setdefault(str(path), number) != number:
            raise DataError(f"{what}: image {names[str(path)]} has the same file, {path}")
        height: Any = entry.get("height")
        width: Any = entry.get("width")
        if any(type(side) is not int or side < 1 for side in (height, width)):
            raise DataError(
                f"{what}: expected height and width of at least 1, got {_brief(height)} and "
                f"{_brief(width)}"
            )
        if height * width > LARGEST_IMAGE:
            raise DataError(f"{what}: {height} x {width} are more than {LARGEST_IMAGE:,} pixels")
        images[number] = AnnotatedImage(number, str(path), height, width)
    return list(images.values())


def _annotation(
    entry: dict[str, Any],
    number: int,
    categories: Categories,
    size: tuple[int, int],
    masks: bool,
    what: str,
) -> Annotation:
    """One annotation of an image of this size, checked."""
    category_id = _id(entry, "category_id", what)
    try:
        label = categories.label(category_id)
    except KeyError:
        raise DataError(f"{what}: category {category_id} is not in the list") from None
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_finite, box)):
        raise DataError(f"{what}: expected a bbox of four finite numbers, got {_brief(box)}")
    if min(box[2:]) < 0:
        raise DataError(f"{what}: its bbox has a negative width or height: {_brief(box)}")
    area = entry.get("area")
    if area is not None and not (_is_finite(area) and area >= 0):
        raise DataError(f"{what}: expected an area of at least 0, got {_brief(area)}")
    crowd = entry.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise DataError(f"{what}: expected an iscrowd of 0 or 1, got {_brief(crowd)}")
    segmentation: Any = None
    if masks:
        segmentation = entry.get("segmentation")
        try:
            if isinstance(segmentation, dict):
                segmentation = rle.parse(segmentation, *size)
            elif isinstance(segmentation, list):
                segmentation = polygons.parse(segmentation)
            else:
                raise ValueError("it has no segmentation, which training with masks needs")
        except ValueError as error:
            raise DataError(f"{what}: {error}") from None
    x, y, width, height = map(float, box)
    return Annotation(
        id=number,
        label=label,
        box=(x, y, width, height),
        area=None if area is None else float(area),
        crowd=bool(crowd),
        segmentation=segmentation,
    )


def _id(entry: dict[str, Any], key: str, what: str) -> int:
    number = entry.get(key)
    if type(number) is not int or abs(number) > LARGEST_ID:
        raise DataError(f"{what}: expected a whole number as {key}, got {_brief(number)}")
    return number


def _text(entry: dict[str, Any], key: str, what: str) -> str:
    text = entry.get(key)
    if not isinstance(text, str):
        raise DataError(f"{what}: expected a text as {key}, got {_brief(text)}")
    return text


def _is_finite(value: Any) -> bool:
    """A number that a float holds; JSON's may have any number of digits."""
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:
        return False


def _brief(value: Any) -> str:
    return "nothing" if value is None else f"{value!r:.60}"


def _digest(content: bytes, split: Split) -> str:
    digest = hashlib.sha256(content)
    missing = []
    for index in range(len(split.images)):
        path = split.path(index)
        if os.path.isfile(path):
            digest.update(f"\n{os.path.getsize(path)}".encode())
        else:
            missing.append(split.images[index].file_name)
    if missing:
        raise DataError(
            f"{split.file} lists {counted(len(missing), 'image')} that are not files in "
            f"{split.folder}: {first_few(missing)}"
        )
    return digest.hexdigest()
