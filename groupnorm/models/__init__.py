"""Architectures; each takes `norm`, a NormSpec, its string, or a factory made from one."""

from groupnorm.models.classification.resnet_cifar import ResNetCifar, count_parameters
from groupnorm.models.classification.resnet_imagenet import imagenet_resnet
from groupnorm.models.classification.vgg import vgg16
from groupnorm.models.registry import (
    build_model,
    channel_widths,
    check_model,
    probe_module,
    usual_images,
)

__all__ = [
    "ResNetCifar",
    "build_model",
    "channel_widths",
    "check_model",
    "count_parameters",
    "imagenet_resnet",
    "probe_module",
    "usual_images",
    "vgg16",
]
