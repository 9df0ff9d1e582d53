"""The configuration of a training that labels every pixel."""

from __future__ import annotations

from typing import ClassVar, Literal

from groupnorm.training.config.common import TrainingConfig
from groupnorm.training.config.fields import Count, Norm


class SegmentationConfig(TrainingConfig):
    """Everything that decides the numbers of a run of semantic segmentation.

    The learning rate is 0.1 per 256 images of the step, as a classifier's: with 8 workers
    `0.1 * N / 32`.
    """

    always_in_the_name: ClassVar[frozenset[str]] = frozenset({
        "task", "model", "norm", "data", "train_images", "workers", "batch_per_worker",
        "accumulate", "epochs", "steps", "schedule", "drops", "warmup_epochs", "warmup_steps",
        "warmup_from", "base_lr", "momentum", "nesterov", "weight_decay", "decay_norms",
        "clip_norm", "precision", "memory_format", "seed",
    })  # fmt: skip

    task: Literal["segmentation"] = "segmentation"
    """What is learned."""
    model: str = "unet_narrow"
    """unet_narrow, for images whose sides are multiples of 8."""
    norms: dict[str, Norm] = {}  # noqa: RUF012 - pydantic copies it
    """Other normalizations for parts of the network, as norms.decoder=gn:groups=8; the parts are
    encoder and decoder."""
    data: str = "garments-masks"
    """Data set with a label for every pixel; 'groupnorm doctor' lists them."""
    train_images: Count | None = None
    """Train on so many images only, the first; None for all."""
    validation_images: Count | None = None
    """Hold out so many training images, the last, and evaluate on them in place of the test images;
    None for no such thing."""
    reported_epochs: Count = 1
    """The reported number is the median over so many last epochs; batch norm's statistics are
    recomputed after each of them, and after no other."""
