"""Architectures; each takes `norm`, a NormSpec, its string, or a factory made from one."""

from groupnorm.models.build import build_model, check_model
from groupnorm.models.resnet_cifar import ResNetCifar

__all__ = ["ResNetCifar", "build_model", "check_model"]
