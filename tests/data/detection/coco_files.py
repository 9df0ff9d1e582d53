"""Small data sets in the layout of COCO: real JPEG files and JSON, to be changed before writing."""

import json

from groupnorm.data.detection.annotations import DetectionSet
from groupnorm.data.detection.reader import read_split
from tests.data.files.image_trees import photo, write

SQUARE = [2, 3, 10, 3, 10, 9, 2, 9]  # of 8 x 6 pixels


def annotation(number=1, image_id=1, **changes):
    """A square of 8 x 6 pixels as a polygon; a field that is changed to None is left out."""
    entry = {
        "id": number, "image_id": image_id, "category_id": 7, "bbox": [2, 3, 8, 6], "area": 48,
        "iscrowd": 0, "segmentation": [list(SQUARE)],
    }  # fmt: skip
    return {key: value for key, value in {**entry, **changes}.items() if value is not None}


def image(number=1, **changes):
    entry = {"id": number, "file_name": f"{number}.jpg", "width": 40, "height": 30}
    return {**entry, **changes}


def data(annotations=None, images=None, **changes):
    """The content of an annotation file; category ids with holes, not sorted."""
    entry = {
        "images": [image()] if images is None else images,
        "annotations": [annotation()] if annotations is None else annotations,
        "categories": [{"id": 90, "name": "bag"}, {"id": 7, "name": "shirt"}],
    }
    return {**entry, **changes}


def write_split(root, content, split="train2017", pictures=None):
    """The annotation file and its images, of the size that it says.

    `pictures`: names of files -> an image or bytes instead, or None for no file.
    """
    for number, entry in enumerate(content["images"]):
        picture = photo(number, (entry["width"], entry["height"]))
        picture = (pictures or {}).get(entry["file_name"], picture)
        if picture is not None:
            write(root / split / entry["file_name"], picture)
    file = root / "annotations" / f"instances_{split}.json"
    write(file, json.dumps(content).encode())
    return file, root / split


def many(count=8, seed=0):
    """Images, every third one high; image k has k % 3 squares of two categories."""
    images, annotations = [], []
    for k in range(count):
        size = (30, 40) if k % 3 == 2 else (40, 30)
        images.append(image(100 + k, width=size[0], height=size[1]))
        for j in range(k % 3):
            x, y = 1 + (5 * k + 9 * j + seed) % 20, 2 + j
            square = [x, y, x + 8, y, x + 8, y + 6, x, y + 6]
            annotations.append(
                annotation(
                    len(annotations) + 1, 100 + k, bbox=[x, y, 8, 6], segmentation=[square],
                    category_id=7 if j else 90,
                )
            )  # fmt: skip
    return data(annotations, images)


def detection_set(root, train=None, test=None, **changes):
    """A `DetectionSet` of two annotation files, `many` by default."""
    splits = []
    for split, content in (("train2017", train or many()), ("val2017", test or many(5, seed=3))):
        pictures = changes.pop(f"{split}_pictures", None)
        read, categories, _ = read_split(*write_split(root, content, split, pictures))
        splits.append(read)
    return DetectionSet("toy", "1", categories, *splits, **changes)
