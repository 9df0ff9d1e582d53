"""Models by name, as configurations write them."""

from __future__ import annotations

from groupnorm.layers import NormLayer
from groupnorm.models.resnet_cifar import ResNetCifar, stage_widths
from groupnorm.spec import NormSpec

_DEPTHS = {f"resnet{depth}": depth for depth in (8, 14, 20, 32, 44, 56, 110)}


def check_model(name: str) -> int:
    """The depth of the CIFAR-type ResNet called `name` ("resnet8", "resnet20", ...).

    Raises:
        ValueError: another name; the message lists the known ones.
    """
    if name not in _DEPTHS:
        raise ValueError(
            f"unknown model {name!r}; known: {', '.join(_DEPTHS)} "
            "(ResNets for small images, of depth 6n + 2)"
        )
    return _DEPTHS[name]


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
