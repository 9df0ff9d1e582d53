"""A trained detector without its data set: what it takes besides its weights, what it finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from groupnorm import models
from groupnorm.data.detection import rle
from groupnorm.data.detection.examples import Size, resized
from groupnorm.run.setup import built
from groupnorm.training.config import DetectionConfig
from groupnorm.training.evaluation.coco import finite, to_original
from groupnorm.training.warm_start import WarmStart, WarmStartError, load_weights


@dataclass(frozen=True)
class BuiltFor:
    """What of its data set a detector is built for; a run's `env.json` has it as `built_for`.

    Attributes:
        categories: names, of label 1 first.
        canvas: the usual short side of its training images in pixels, which anchors follow.
        short_side: pixels of the short side of the images that it is given.
        long_side: of the long side at most; the short side then has fewer.
        image_mean: of red, green and blue in 0 to 1, and `image_std` alike.
    """

    categories: list[str]
    canvas: int
    short_side: int
    long_side: int
    image_mean: list[float]
    image_std: list[float]

    @property
    def size(self) -> Size:
        """What images are resized to."""
        return Size(self.short_side, self.long_side)


def build(config: DetectionConfig, built_for: BuiltFor, device: str) -> nn.Module:
    """The detector of a configuration with its first weights."""
    return built(
        config,
        device,
        lambda norm, of_places: models.build_detector(
            config.model,
            norm=norm,
            norms=of_places,
            num_classes=len(built_for.categories),
            canvas=built_for.canvas,
            box_head=config.box_head,
            head_init=config.head_init,
            freeze_at=config.freeze_at,
            image_mean=built_for.image_mean,
            image_std=built_for.image_std,
        ),
    )


class Found(NamedTuple):
    """What a detector found in an image.

    Attributes:
        objects: by falling score, with `category` (its name), `score`, `box` (x0 y0 x1 y1) and
            `mask` (COCO's compressed RLE, None of a detector without masks), in pixels of the
            image. Scores are rounded to 1e-4, boxes to a hundredth of a pixel.
        not_finite: how many were left out because a score or a corner was not a number.
    """

    objects: list[dict[str, Any]]
    not_finite: int


class TrainedDetector:
    """A detector that takes images of any size.

    Args:
        config: of the run that trained it.
        built_for: what that run's data set gave.
        weights: of that run.
        device: "cpu", "cuda" or "cuda:N".

    Raises:
        ValueError: the weights do not fit.
    """

    def __init__(
        self,
        config: DetectionConfig,
        built_for: BuiltFor,
        weights: Mapping[str, Tensor],
        device: str = "cpu",
    ) -> None:
        self.config, self.built_for, self.device = config, built_for, device
        self.model = build(config, built_for, device)
        try:
            load_weights(self.model, weights, WarmStart())
        except WarmStartError as error:
            raise ValueError(
                f"the weights do not fit {config.model} with {len(built_for.categories)} "
                f"categories: {error}"
            ) from None
        self.model.eval()

    @torch.no_grad()
    def find(self, image: Image.Image, lowest_score: float) -> Found:
        """The objects in an image, which is resized as in training and goes alone through the
        network, so that nothing pads it but to a multiple of 32 pixels.

        Args:
            image: mode RGB.
            lowest_score: objects of a lower score are left out; the network has none below 0.05.
        """
        pixels = resized(image, self.built_for.size).to(self.device).float().div_(255)
        half = self.config.precision == "bfloat16"
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=half):
            (output,) = self.model([pixels])
        output, not_finite = finite(output)
        enough = output["scores"] >= lowest_score
        output = {name: values[enough] for name, values in output.items()}
        size = (image.height, image.width)
        found = to_original(output, pixels, image_id=0, original_size=size)
        objects = [
            {
                "category": self.built_for.categories[label - 1],
                "score": round(score, 4),
                "box": [round(value, 2) for value in box],
                "mask": None if found.masks is None else rle.to_json(found.masks[number], *size),
            }
            for number, (label, score, box) in enumerate(
                zip(found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True)
            )
        ]
        return Found(sorted(objects, key=lambda one: -one["score"]), not_finite)
