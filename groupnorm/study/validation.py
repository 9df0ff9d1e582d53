"""How many training images a study holds out as validation images, to choose by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from groupnorm.study.plan import PlanError
from groupnorm.training.config import TrainingConfig

VALIDATION_PART = 10
"""Of so many training images one is held out, at least one of each class."""


def validation_count(
    data: dict[str, Any], configs: Iterable[TrainingConfig], asked: int | None = None
) -> int:
    """How many validation images: `asked`, or one in `VALIDATION_PART` of those trained on.

    Args:
        data: what `study.json` says of the data.
        configs: the runs without any. The one with the fewest images counts.

    Raises:
        PlanError: as many images are held out as there are, or more.
    """
    images = asked
    if images is None:
        limits = [c.train_images for c in configs if c.train_images is not None]
        images = max(min([data["train"], *limits]) // VALIDATION_PART, data["classes"])
    if images >= data["train"]:
        raise PlanError(
            f"validation_images={images} leaves nothing to train on of the {data['train']:,} "
            f"training images of {data['name']}"
        )
    return int(images)


def with_validation(
    config: TrainingConfig, data: dict[str, Any], images: int
) -> dict[str, int | None]:
    """The fields of a run that differ when it has so many validation images."""
    limit, left = config.train_images, data["train"] - images
    return {
        "validation_images": images,
        "train_images": None if limit is None else min(limit, left),
    }
