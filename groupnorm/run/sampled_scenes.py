"""The first test images of a detection data set, and what trained detectors find in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from groupnorm.data import DetectionSet
from groupnorm.data.detection import rle
from groupnorm.data.detection.annotations import AnnotatedImage, Split
from groupnorm.data.detection.examples import Size, draw_mask, read_image
from groupnorm.data.files.decode import UnreadableError
from groupnorm.run.detector import BuiltFor, TrainedDetector
from groupnorm.training.config import DetectionConfig

_AS_STORED = Size(None, 0)


class SampledScenes:
    """The first test images of a data set that can be decoded, with their objects.

    The attributes are those of `groupnorm.run.setup.SampledImages`; each image has `file`,
    `image_id`, `height`, `width` and `truth`, whose objects have `category`, `box` (x0 y0 x1 y1),
    `mask` (COCO's compressed RLE, or None) and `crowd`.

    Args:
        config: of a run; others are compared with it.
        data: its data set.
        count: how many images.

    Raises:
        DataError: a file cannot be opened, or a mask cannot be drawn.
    """

    def __init__(self, config: DetectionConfig, data: DetectionSet, count: int) -> None:
        self.config = config
        self.categories = list(data.categories.names)
        self.images: list[dict[str, Any]] = []
        self.pixels: list[NDArray[np.uint8]] = []
        self.unreadable: dict[str, str] = {}
        for index, entry in enumerate(data.test.images):
            if len(self.images) == count:
                break
            try:
                image, _ = read_image(data.test, index, _AS_STORED)
            except UnreadableError as error:
                self.unreadable[entry.file_name] = str(error)
                continue
            self.pixels.append(np.ascontiguousarray(image.numpy().transpose(1, 2, 0)))
            self.images.append({
                "file": f"{entry.id}.png",
                "image_id": entry.id,
                "height": entry.height,
                "width": entry.width,
                "truth": _truth(data.test, entry, self.categories),
            })  # fmt: skip

    def predict(
        self,
        config: DetectionConfig,
        built_for: Mapping[str, Any],
        weights: Mapping[str, Tensor],
        lowest_score: float,
    ) -> dict[str, Any]:
        """What the detector of another run finds; errors and arguments as in `SampledImages`.

        Returns:
            `objects`, for each image those of `groupnorm.run.detector.Found`, and `not_finite`.
        """
        for field in ("data", "validation_images"):
            ours, theirs = getattr(self.config, field), getattr(config, field)
            if ours != theirs:
                raise ValueError(f"its test images are others: {field} is {theirs}, not {ours}")
        detector = TrainedDetector(config, BuiltFor(**built_for), weights)
        found = [detector.find(Image.fromarray(image), lowest_score) for image in self.pixels]
        return {
            "objects": [one.objects for one in found],
            "not_finite": sum(one.not_finite for one in found),
        }


def _truth(split: Split, entry: AnnotatedImage, categories: list[str]) -> list[dict[str, Any]]:
    size = entry.height, entry.width
    return [
        {
            "category": categories[one.label - 1],
            "box": list(one.corners(*size)),
            "mask": rle.to_json(rle.encode(draw_mask(split, entry, one)), *size)
            if split.masks
            else None,
            "crowd": one.crowd,
        }
        for one in entry.annotations
    ]
