"""The configuration of a run: a frozen value whose hash names it, one class for each task."""

from groupnorm.training.config.classification import RunConfig
from groupnorm.training.config.common import TrainingConfig, digest_of
from groupnorm.training.config.detection import DetectionConfig
from groupnorm.training.config.errors import describe_errors
from groupnorm.training.config.fields import Count, ImageSize, Share, is_run_name
from groupnorm.training.config.segmentation import SegmentationConfig
from groupnorm.training.config.video import VideoConfig

__all__ = [
    "Count",
    "DetectionConfig",
    "ImageSize",
    "RunConfig",
    "SegmentationConfig",
    "Share",
    "TrainingConfig",
    "VideoConfig",
    "describe_errors",
    "digest_of",
    "is_run_name",
]
