"""Architectures; each takes `norm`, a NormSpec, its string, or a factory made from one."""

from groupnorm.models.build import (
    build_model,
    channel_widths,
    check_model,
    usual_images,
    watched_convolution,
)
from groupnorm.models.checkpoints import load_published
from groupnorm.models.resnet_cifar import ResNetCifar, count_parameters
from groupnorm.models.resnet_imagenet import imagenet_resnet
from groupnorm.models.vgg import vgg16

__all__ = [
    "ResNetCifar",
    "build_model",
    "channel_widths",
    "check_model",
    "count_parameters",
    "imagenet_resnet",
    "load_published",
    "usual_images",
    "vgg16",
    "watched_convolution",
]
