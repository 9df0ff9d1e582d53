"""Architectures; each takes `norm`, a NormSpec, its string, or a factory made from one.

What needs torch loads on first use: the names and widths of the models do not.
"""

from typing import TYPE_CHECKING

from groupnorm.lazy import lazy
from groupnorm.models.registry import (
    build_model,
    build_segmentation_model,
    build_video_model,
    channel_widths,
    check_detector,
    check_model,
    check_places,
    check_segmentation_model,
    check_video_model,
    places_of,
    usual_images,
    widths_of_place,
)

if TYPE_CHECKING:
    from groupnorm.models.classification.resnet_cifar import ResNetCifar, count_parameters
    from groupnorm.models.classification.resnet_imagenet import imagenet_resnet
    from groupnorm.models.classification.vgg import vgg16
    from groupnorm.models.detection.build import build_detector

__all__ = [
    "ResNetCifar",
    "build_detector",
    "build_model",
    "build_segmentation_model",
    "build_video_model",
    "channel_widths",
    "check_detector",
    "check_model",
    "check_places",
    "check_segmentation_model",
    "check_video_model",
    "count_parameters",
    "imagenet_resnet",
    "places_of",
    "usual_images",
    "vgg16",
    "widths_of_place",
]

__getattr__ = lazy(
    __name__,
    {
        "ResNetCifar": "groupnorm.models.classification.resnet_cifar",
        "build_detector": "groupnorm.models.detection.build",
        "count_parameters": "groupnorm.models.classification.resnet_cifar",
        "imagenet_resnet": "groupnorm.models.classification.resnet_imagenet",
        "vgg16": "groupnorm.models.classification.vgg",
    },
)
