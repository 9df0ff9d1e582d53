"""Architectures; each takes `norm`, a NormSpec, its string, or a factory made from one."""

from groupnorm.models.build import build_model, channel_widths, check_model
from groupnorm.models.resnet_cifar import ResNetCifar, count_parameters

__all__ = ["ResNetCifar", "build_model", "channel_widths", "check_model", "count_parameters"]
