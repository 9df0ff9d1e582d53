"""Models by name, as configurations write them. Only building one needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from groupnorm.models.classification import widths
from groupnorm.spec import NormSpec

if TYPE_CHECKING:
    from torch import nn

    from groupnorm.layers import NormLayer

_CIFAR = {f"resnet{depth}": depth for depth in widths.CIFAR_DEPTHS}
_IMAGENET = {f"resnet{depth}": depth for depth in widths.BLOCKS_PER_STAGE}
_DEPTHS = {**_CIFAR, **_IMAGENET, "vgg16": 16}


def check_model(name: str, width: float = 1.0, sizes: Sequence[int] = ()) -> int:
    """The depth of the model called `name` ("resnet8", "resnet50", "vgg16", ...).

    Args:
        sizes: that images are made smaller to, in pixels.

    Raises:
        ValueError: another name, in which case the message lists the known ones; a width other
            than 1 of a model that is no CIFAR-type ResNet; or a size too small for the model.
    """
    if name not in _DEPTHS:
        raise ValueError(
            f"unknown model {name!r}; known: {', '.join(_CIFAR)} "
            "(ResNets for small images, of depth 6n + 2), "
            f"{', '.join(_IMAGENET)} (ResNets for ImageNet), vgg16"
        )
    if width != 1 and name not in _CIFAR:
        raise ValueError(
            f"{name} has its published width; width={width} goes with {', '.join(_CIFAR)}"
        )
    smallest = _usual_images(name).smallest
    if sizes and min(sizes) < smallest:
        raise ValueError(f"{name} takes images of {smallest} pixels at least, got {min(sizes)}")
    return _DEPTHS[name]


def channel_widths(name: str, width: float = 1.0) -> tuple[int, ...]:
    """The channel counts that the model's norms see, without building it.

    Raises:
        ValueError: as `check_model`.
    """
    depth = check_model(name, width)
    if name in _CIFAR:
        return widths.cifar_widths(width)
    return widths.VGG_WIDTHS if name == "vgg16" else widths.imagenet_widths(depth)


@dataclass(frozen=True)
class UsualImages:
    """What a model is usually trained on.

    Attributes:
        size: side of the images in pixels.
        multiple: sizes go in steps of it, for the model halves its maps so often.
        smallest: size that leaves the last maps more than one position.
        classes: number of outputs.
    """

    size: int
    multiple: int
    smallest: int
    classes: int


def usual_images(name: str) -> UsualImages:
    """The images of CIFAR-10 or of ImageNet, by the kind of the model.

    Raises:
        ValueError: unknown name.
    """
    check_model(name)
    return _usual_images(name)


def _usual_images(name: str) -> UsualImages:
    return UsualImages(32, 8, 8, 10) if name in _CIFAR else UsualImages(224, 32, 64, 1000)


def build_model(
    name: str,
    *,
    norm: str | NormSpec | NormLayer,
    num_classes: int,
    in_channels: int = 3,
    width: float = 1.0,
    shortcut: str = "A",
    zero_gamma: bool = True,
) -> nn.Module:
    """Build a model by name with freshly initialized weights from torch's default generator.

    `ResNetCifar`, `imagenet_resnet` or `vgg16`; nothing is downloaded.

    Args:
        name: "resnet8", "resnet14", ... "resnet110" for small images; "resnet18", "resnet34",
            "resnet50", "resnet101" and "vgg16" for ImageNet.
        norm: normalization of every layer.
        num_classes: number of outputs.
        in_channels: channels of the images.
        width: factor on the channels of a CIFAR-type ResNet.
        shortcut: of a CIFAR-type ResNet, "A" or "B". The ImageNet ResNets always have
            projections ("B", where the shape changes), VGG-16 has none.
        zero_gamma: gamma = 0 on the last norm of each residual block, so that every block starts
            as its shortcut; else 1. VGG-16 has no residual blocks.

    Raises:
        ValueError: unknown name, shortcut or normalization, or what the model does not take.
        ImportError: the ImageNet models without torchvision.
    """
    depth = check_model(name, width)
    if name == "vgg16":
        from groupnorm.models.classification import vgg

        return vgg.vgg16(norm=norm, num_classes=num_classes, in_channels=in_channels)
    if name in _IMAGENET:
        from groupnorm.models.classification import resnet_imagenet

        return resnet_imagenet.imagenet_resnet(
            depth,
            norm=norm,
            num_classes=num_classes,
            in_channels=in_channels,
            zero_gamma=zero_gamma,
        )
    from groupnorm.models.classification import resnet_cifar

    return resnet_cifar.ResNetCifar(
        depth,
        norm=norm,
        num_classes=num_classes,
        in_channels=in_channels,
        width=width,
        shortcut=shortcut,
        zero_gamma=zero_gamma,
    )
