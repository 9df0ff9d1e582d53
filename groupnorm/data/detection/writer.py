"""COCO annotation files, written: what `reader` and any other tool for COCO reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from groupnorm.data.detection import rle
from groupnorm.data.detection.annotations import AnnotatedImage, Annotation
from groupnorm.data.detection.targets import Categories


def annotation_file(
    images: Sequence[AnnotatedImage], categories: Categories, info: Mapping[str, Any]
) -> str:
    """The text of an annotation file.

    Annotations are numbered anew from 1: evaluators take the id 0 for "matched with nothing".

    Args:
        info: about the data set.
    """
    annotations = [(image, annotation) for image in images for annotation in image.annotations]
    data = {
        "info": dict(info),
        "licenses": [],
        "categories": [
            {"id": number, "name": name, "supercategory": above}
            for number, name, above in zip(
                categories.ids, categories.names, categories.supercategories, strict=True
            )
        ],
        "images": [
            {"id": i.id, "file_name": i.file_name, "height": i.height, "width": i.width}
            for i in images
        ],
        "annotations": [
            _annotation(number, image, annotation, categories)
            for number, (image, annotation) in enumerate(annotations, 1)
        ],
    }
    return json.dumps(data, separators=(",", ":"))


def segmentation_of(annotation: Annotation, image: AnnotatedImage) -> Any:
    """An annotation's mask as it stands in JSON: polygons, or a compressed string; None without."""
    segmentation = annotation.segmentation
    if segmentation is None:
        return None
    if isinstance(segmentation, tuple):
        return [polygon.flatten().tolist() for polygon in segmentation]
    return rle.to_json(segmentation, image.height, image.width)


def _annotation(
    number: int, image: AnnotatedImage, annotation: Annotation, categories: Categories
) -> dict[str, Any]:
    entry = {
        "id": number,
        "image_id": image.id,
        "category_id": categories.id(annotation.label),
        "bbox": list(annotation.box),
        "area": annotation.area_in(image.height, image.width),
        "iscrowd": int(annotation.crowd),
    }
    segmentation = segmentation_of(annotation, image)
    return entry if segmentation is None else {**entry, "segmentation": segmentation}
