"""How many training images a study holds out, to choose by without the test images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from groupnorm.study.plan import PlanError
from groupnorm.training.config import TrainingConfig

HELD_OUT = 10
"""Of so many training images one is held out, at least one of each class."""


def held_out_images(
    data: dict[str, Any], configs: Iterable[TrainingConfig], asked: int | None = None
) -> int:
    """How many training images are held out: `asked`, or one in `HELD_OUT` of those trained on.

    Args:
        data: what `study.json` says of the data.
        configs: the runs without any held out. The one with the fewest images counts.

    Raises:
        PlanError: as many images are held out as there are, or more.
    """
    images = asked
    if images is None:
        limits = [c.train_images for c in configs if c.train_images is not None]
        images = max(min([data["train"], *limits]) // HELD_OUT, data["classes"])
    if images >= data["train"]:
        raise PlanError(
            f"validation_images={images} leaves nothing to train on of the {data['train']:,} "
            f"training images of {data['name']}"
        )
    return int(images)


def with_held_out(
    config: TrainingConfig, data: dict[str, Any], images: int
) -> dict[str, int | None]:
    """The fields of a run that differ when so many images are held out."""
    limit, left = config.train_images, data["train"] - images
    return {
        "validation_images": images,
        "train_images": None if limit is None else min(limit, left),
    }
