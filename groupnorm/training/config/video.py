"""The configuration of a video classifier's training."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from groupnorm.training.config.common import TrainingConfig
from groupnorm.training.config.fields import Amount, Count, Drops, ImageSize

IMAGE_SIZE = 224
"""Pixels of the crop from video files, where a configuration names none."""
_FRAMES = Annotated[int, Field(ge=1, le=4096)]


def _one_or_three(value: int) -> int:
    if value not in (1, 3):
        raise ValueError(f"expected 1 or 3 crops, got {value}")
    return value


_Crops = Annotated[int, AfterValidator(_one_or_three)]


class VideoConfig(TrainingConfig):
    """Everything that decides the numbers of a video classifier's run (Wu & He 2018, section 4.3).

    The defaults of the optimizer are those of the non-local networks' baseline, which the paper
    trains (Wang et al. 2018, arXiv 1711.07971, section 4.1, and its published configurations):
    a learning rate of 0.01 for the 64 clips of 8 workers, which follows their number, divided by 10
    after 150,000 and 300,000 of 400,000 steps, Nesterov's momentum, weight decay 1e-4 and none on
    gamma and beta, which come from a network trained on images. The batch is one of clips: an epoch
    takes one clip of each training video.
    """

    always_in_the_name: ClassVar[frozenset[str]] = frozenset({
        "task", "model", "norm", "data", "frames", "stride", "centre_time", "test_clips",
        "test_crops", "image_size", "train_images", "workers", "batch_per_worker",
        "accumulate", "epochs", "steps", "schedule", "drops", "warmup_epochs", "warmup_steps",
        "warmup_from", "base_lr", "momentum", "nesterov", "weight_decay", "decay_norms",
        "clip_norm", "precision", "memory_format", "seed",
    })  # fmt: skip
    reference_images: ClassVar[int] = 64
    evaluated_on: ClassVar[str] = "videos"

    task: Literal["video"] = "video"
    """What is learned."""
    model: str = "i3d_narrow"
    """i3d_narrow for small clips, or i3d_resnet50, which has dropout 0.5."""
    data: str = "garments-motion"
    """Data set of videos; 'groupnorm doctor' lists them."""
    frames: _FRAMES = 16
    """Frames of a clip."""
    stride: _FRAMES = 1
    """Frames of the video from one frame of a clip to the next: 32 frames at stride 2 and 64 at
    stride 1 have one span."""
    centre_time: bool = False
    """Subtract from each pixel its mean over the frames of the clip, which takes the still picture
    out of the input."""
    test_clips: Count = 10
    """Clips of a test video, at equal distances, whose softmax is averaged. Where classes are alike
    at this stride, clips start a multiple of the stride apart: at most 3 in the 20 frames of
    garments-motion at stride 2."""
    test_crops: _Crops = 1
    """Crops of each test clip from video files: the centre, or also both ends of the longer side.
    """
    image_size: ImageSize | None = None
    """Pixels of the square crop, for data sets of video files; None for 224."""
    train_images: Count | None = None
    """Train on so many videos only; None for all. Of a data set in memory they are the first, of
    video files a sample with the same share of every class."""
    validation_images: Count | None = None
    """Hold out so many training videos, with the same share of every class and the same ones for
    every seed and norm, and evaluate on them in place of the test videos; None for no such thing.
    """
    batch_per_worker: Count = 8
    """Clips of a worker; batch norm takes its statistics from them."""
    drops: Drops = (0.375, 0.75)
    """Shares of the run after which the schedule step divides the learning rate by 10."""
    base_lr: Annotated[Amount, Field(gt=0)] = 0.01
    """Learning rate at the reference number of clips a step."""
    decay_norms: bool = False
    """Weight decay on gamma and beta too, or on neither (false), as is usual in fine-tuning."""
    memory_format: Literal["contiguous", "channels_last"] = "contiguous"
    """Of weights and clips; channels_last is torch's channels_last_3d."""
    reported_epochs: Count = 1
    """The reported number is the median over so many last epochs; batch norm's statistics are
    recomputed after each of them, and after no other."""
