"""The configuration of an image classifier's training."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from groupnorm.training.config.common import TrainingConfig
from groupnorm.training.config.fields import ImageSize, SizeSchedule
from groupnorm.training.schedules import full_size_steps

IMAGE_SIZE = 224
"""Pixels of the crop from image files, where a configuration names none."""


class RunConfig(TrainingConfig):
    """Everything that decides the numbers of a classifier's run (Wu & He 2018, section 4.1).

    The learning rate is 0.1 per 256 images of the step: with 8 workers the paper's `0.1 * N / 32`.
    """

    always_in_the_name: ClassVar[frozenset[str]] = frozenset({
        "model", "width", "shortcut", "norm", "data", "train_images", "image_size", "workers",
        "batch_per_worker", "accumulate", "epochs", "steps", "schedule", "warmup_epochs", "base_lr",
        "momentum", "nesterov", "weight_decay", "precision", "compile", "memory_format", "seed",
    })  # fmt: skip

    task: Literal["classification"] = "classification"
    """What is learned."""
    model: str = "resnet20"
    """resnet8, resnet14, ... resnet110, preact_resnet8, 14, ... 110, mobilenet_narrow, resnet18,
    34, 50, 101, vgg16."""
    width: Annotated[float, Field(gt=0, le=64, allow_inf_nan=False)] = 1.0
    """Factor on the channels of a ResNet for small images."""
    shortcut: Literal["A", "B"] = "A"
    """Of a ResNet for small images: A, padded with zeros, or B, a convolution."""
    zero_gamma: bool = True
    """Begin with gamma = 0 on the last norm of each residual block, or with 1 (false)."""
    data: str = "fashion-scenes"
    """Data set; 'groupnorm doctor' lists them."""
    image_size: ImageSize | None = None
    """Pixels of the square crop, for data sets of image files; None for 224."""
    size_schedule: SizeSchedule = ()
    """Smaller training images in the first part of the run, as 16:0.3,24:0.7: of 16 pixels up to
    30 % of the steps, of 24 up to 70 %, then of their own size, as test images always are."""

    def full_size_steps(self, steps: int, total_steps: int, own_size: int) -> float:
        """By the pixels of the images, which a size schedule makes smaller."""
        size = self.image_size or own_size
        return full_size_steps(self.size_schedule, size, steps, total_steps)
