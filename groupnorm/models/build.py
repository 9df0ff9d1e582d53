"""Models by name, as configurations write them."""

from __future__ import annotations

import re

from groupnorm.layers import NormLayer
from groupnorm.models.resnet_cifar import ResNetCifar, stage_widths
from groupnorm.spec import NormSpec


def check_model(name: str) -> int:
    """The depth of the CIFAR-type ResNet called `name` ("resnet8", "resnet20", ...).

    Raises:
        ValueError: another name, or a depth that is not 6n + 2.
    """
    match = re.fullmatch(r"resnet(\d+)", name)
    if match is None or (int(match[1]) - 2) % 6 or int(match[1]) < 8:
        raise ValueError(
            f"unknown model {name!r}; known: resnet8, resnet14, resnet20, resnet32, resnet44, "
            "resnet56, resnet110 (CIFAR-type ResNets of depth 6n + 2)"
        )
    return int(match[1])


def channel_widths(name: str, width: float = 1.0) -> tuple[int, ...]:
    """The channel counts that the model's norms see, without building it."""
    check_model(name)
    return stage_widths(width)


def build_model(
    name: str,
    *,
    norm: str | NormSpec | NormLayer,
    num_classes: int,
    in_channels: int = 3,
    width: float = 1.0,
    shortcut: str = "A",
) -> ResNetCifar:
    """Build a model by name with freshly initialized weights from torch's default generator.

    Raises:
        ValueError: unknown name, shortcut or normalization.
    """
    return ResNetCifar(
        check_model(name),
        norm=norm,
        num_classes=num_classes,
        in_channels=in_channels,
        width=width,
        shortcut=shortcut,
    )
