"""Models by name, as configurations write them. Only building one needs torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from groupnorm.models.classification import widths
from groupnorm.models.detection.architectures import (
    BOX_HEADS,
    DETECTORS,
    architecture_of,
    check_box_head,
)
from groupnorm.models.places import (
    CIFAR_PLACES,
    IMAGENET_PLACES,
    MOBILENET_PLACES,
    NARROW_PLACES,
    UNET_ENCODER_PLACES,
    VGG_PLACES,
    check_given,
)
from groupnorm.models.segmentation.architectures import (
    SEGMENTATION_MODELS,
    UNET_ENCODER,
    UNET_ENCODER_DEPTH,
    UNET_WIDTHS,
    segmentation_architecture_of,
)
from groupnorm.models.video.architectures import I3D, VIDEO_MODELS, video_architecture_of
from groupnorm.spec import NormSpec

if TYPE_CHECKING:
    from torch import nn

    from groupnorm.layers import NormLayer

_CIFAR = {f"resnet{depth}": depth for depth in widths.CIFAR_DEPTHS}
_PREACT = {f"preact_resnet{depth}": depth for depth in widths.CIFAR_DEPTHS}
_SMALL = {**_CIFAR, **_PREACT}
_IMAGENET = {f"resnet{depth}": depth for depth in widths.BLOCKS_PER_STAGE}
_NARROW = widths.NARROW_RESNET
_MOBILENET = widths.MOBILENET
_DEPTHS = {
    **_SMALL, **_IMAGENET, "vgg16": 16, _NARROW: 14, _MOBILENET: widths.MOBILENET_DEPTH,
    UNET_ENCODER: UNET_ENCODER_DEPTH,
}  # fmt: skip


def check_model(name: str, width: float = 1.0, sizes: Sequence[int] = ()) -> int:
    """The depth of the model called `name` ("resnet8", "resnet50", "vgg16", ...).

    Args:
        sizes: that images are made smaller to, in pixels.

    Raises:
        ValueError: another name, in which case the message lists the known ones; a width other
            than 1 of a model that is no ResNet for small images, or one that leaves a stage without
            channels; or a size too small for the model.
    """
    if name not in _DEPTHS:
        raise ValueError(
            f"unknown model {name!r}; known: {', '.join(_CIFAR)} "
            "(ResNets for small images, of depth 6n + 2), "
            f"{', '.join(_PREACT)} (with pre-activation), {_MOBILENET} (for small images), "
            f"{', '.join(_IMAGENET)} (ResNets for ImageNet), vgg16, {_NARROW} (of the small "
            f"detectors), {UNET_ENCODER} (of the small U-Net)"
        )
    if width != 1 and name not in _SMALL:
        raise ValueError(
            f"{name} has its published width; width={width} goes with {', '.join(_SMALL)}"
        )
    if name in _SMALL:
        widths.cifar_widths(width)
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
    if name in _SMALL:
        return widths.cifar_widths(width)
    if name == _NARROW:
        return widths.NARROW_WIDTHS
    if name == _MOBILENET:
        return tuple(sorted(set().union(*widths.mobilenet_widths().values())))
    if name == UNET_ENCODER:
        return UNET_WIDTHS
    return widths.VGG_WIDTHS if name == "vgg16" else widths.imagenet_widths(depth)


def places_of(name: str) -> tuple[str, ...]:
    """The parts of the model that may have a norm of their own, from input to output.

    Args:
        name: of a model, a detector, or a network for segmentation or video.

    Raises:
        ValueError: unknown name.
    """
    if name in DETECTORS:
        return DETECTORS[name].places
    if name in SEGMENTATION_MODELS:
        return SEGMENTATION_MODELS[name].places
    if name in VIDEO_MODELS:
        return VIDEO_MODELS[name].places
    check_model(name)
    if name == "vgg16":
        return VGG_PLACES
    if name == _NARROW:
        return NARROW_PLACES
    if name == _MOBILENET:
        return MOBILENET_PLACES
    if name == UNET_ENCODER:
        return UNET_ENCODER_PLACES
    return CIFAR_PLACES if name in _SMALL else IMAGENET_PLACES


def check_places(name: str, given: Iterable[str]) -> None:
    """Check that the model has each of the places.

    Raises:
        ValueError: unknown name, or a place that it does not have; the message lists its places.
    """
    check_given(given, places_of(name), name)


def check_detector(name: str, given: Mapping[str, NormSpec], box_head: str) -> None:
    """Check that there is a detector of this name, with these places and this box head.

    Args:
        given: norms by place.
        box_head: "2fc" or "4conv1fc".

    Raises:
        ValueError: unknown name or place; a box head of a detector without a choice of it; a norm
            of a box head that has no place for it.
    """
    places = architecture_of(name).places
    check_given(given, places, name)
    if box_head != BOX_HEADS[0] and "box_head" not in places:
        raise ValueError(
            f"box_head={box_head} is for Mask R-CNN with a feature pyramid, not for {name}"
        )
    check_box_head(box_head, given.get("box_head"))


def check_segmentation_model(name: str, given: Iterable[str] = ()) -> None:
    """Check that there is a network for segmentation of this name, with these places.

    Raises:
        ValueError: unknown name or place.
    """
    check_given(given, segmentation_architecture_of(name).places, name)


def check_video_model(
    name: str, given: Iterable[str] = (), *, frames: int | None = None, size: int | None = None
) -> None:
    """Check that there is a network for video of this name, with these places, for such clips.

    Args:
        given: places.
        frames: of a clip; None where they are not known.
        size: side of the frames in pixels; None where it is not known.

    Raises:
        ValueError: unknown name or place; clips too short or too small for the network.
    """
    architecture = video_architecture_of(name)
    check_given(given, architecture.places, name)
    if frames is not None and frames < architecture.fewest_frames:
        raise ValueError(
            f"{name} takes clips of {architecture.fewest_frames} frames at least, got {frames}"
        )
    if size is not None and size < architecture.smallest_size:
        raise ValueError(
            f"{name} takes frames of {architecture.smallest_size} pixels at least, got {size}"
        )


def widths_of_place(name: str, place: str, width: float = 1.0) -> tuple[int, ...]:
    """The channel counts that the norms of one place see, without building the model.

    Raises:
        ValueError: as `check_places`, and a width as `check_model`.
    """
    check_places(name, [place])
    if name in _PREACT:
        return widths.preact_widths(width)[place]
    if name == _MOBILENET:
        return widths.mobilenet_widths()[place]
    found = channel_widths(name, width)
    if place == "stem":
        return found[:1]
    number = int(place.removeprefix("stage"))
    if name in _IMAGENET and _IMAGENET[name] >= 50:  # bottlenecks: inside, and four times as many
        return found[number - 1], found[number + 1]
    return (found[min(number, len(found)) - 1],)  # vgg16 ends in two stages of equal width


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
    """The images of CIFAR-10, of ImageNet or of single garments, by the kind of the model.

    Raises:
        ValueError: unknown name.
    """
    check_model(name)
    return _usual_images(name)


def _usual_images(name: str) -> UsualImages:
    if name == _NARROW:
        return UsualImages(48, 16, 32, 10)
    if name == UNET_ENCODER:
        return UsualImages(32, 8, 16, 10)
    small = name in _SMALL or name == _MOBILENET
    return UsualImages(32, 8, 8, 10) if small else UsualImages(224, 32, 64, 1000)


def build_model(
    name: str,
    *,
    norm: str | NormSpec | NormLayer,
    norms: Mapping[str, str | NormSpec | NormLayer] | None = None,
    num_classes: int,
    in_channels: int = 3,
    width: float = 1.0,
    shortcut: str = "A",
    zero_gamma: bool = True,
) -> nn.Module:
    """Build a model by name with freshly initialized weights from torch's default generator.

    `ResNetCifar`, `PreactResNet`, `NarrowMobileNet`, `imagenet_resnet`, `vgg16`, `NarrowResNet`
    or `UNetEncoder`; nothing is downloaded.

    Args:
        name: "resnet8", "resnet14", ... "resnet110", "preact_resnet8", ... "preact_resnet110" and
            "mobilenet_narrow" for small images; "resnet18", "resnet34", "resnet50", "resnet101" and
            "vgg16" for ImageNet; "resnet14_narrow"; "unet_encoder".
        norm: normalization of every layer.
        norms: other normalizations for parts of the model, by the names that `places_of` gives.
        num_classes: number of outputs.
        in_channels: channels of the images.
        width: factor on the channels of a ResNet for small images.
        shortcut: of a ResNet for small images, "A" or "B". The ImageNet ResNets always have
            projections ("B", where the shape changes), VGG-16 has none, MobileNet's only leave the
            shape as it is.
        zero_gamma: gamma = 0 on the last norm of each residual block, so that every block starts
            as its shortcut; else 1. VGG-16 and the encoder of the U-Net have no
            residual blocks; those of the pre-activation ResNets end in a convolution, and their
            gamma is always 1.

    Raises:
        ValueError: unknown name, place, shortcut or normalization, or what the model does not
            take.
        ImportError: the ImageNet models without torchvision.
    """
    depth = check_model(name, width)
    if name == "vgg16":
        from groupnorm.models.classification import vgg

        return vgg.vgg16(norm=norm, norms=norms, num_classes=num_classes, in_channels=in_channels)
    if name in _IMAGENET:
        from groupnorm.models.classification import resnet_imagenet

        return resnet_imagenet.imagenet_resnet(
            depth,
            norm=norm,
            norms=norms,
            num_classes=num_classes,
            in_channels=in_channels,
            zero_gamma=zero_gamma,
        )
    if name == _NARROW:
        from groupnorm.models.classification import resnet_narrow

        return resnet_narrow.NarrowResNet(
            norm=norm,
            norms=norms,
            num_classes=num_classes,
            in_channels=in_channels,
            zero_gamma=zero_gamma,
        )
    if name == _MOBILENET:
        from groupnorm.models.classification import mobilenet_narrow

        return mobilenet_narrow.NarrowMobileNet(
            norm=norm,
            norms=norms,
            num_classes=num_classes,
            in_channels=in_channels,
            zero_gamma=zero_gamma,
        )
    if name in _PREACT:
        from groupnorm.models.classification import resnet_preact

        return resnet_preact.PreactResNet(
            depth,
            norm=norm,
            norms=norms,
            num_classes=num_classes,
            in_channels=in_channels,
            width=width,
            shortcut=shortcut,
        )
    if name == UNET_ENCODER:
        from groupnorm.models.classification import unet_encoder

        return unet_encoder.UNetEncoder(
            norm=norm, norms=norms, num_classes=num_classes, in_channels=in_channels
        )
    from groupnorm.models.classification import resnet_cifar

    return resnet_cifar.ResNetCifar(
        depth,
        norm=norm,
        norms=norms,
        num_classes=num_classes,
        in_channels=in_channels,
        width=width,
        shortcut=shortcut,
        zero_gamma=zero_gamma,
    )


def build_segmentation_model(
    name: str,
    *,
    norm: str | NormSpec | NormLayer,
    norms: Mapping[str, str | NormSpec | NormLayer] | None = None,
    num_classes: int,
    in_channels: int = 3,
) -> nn.Module:
    """Build a network that labels every pixel by name, with fresh weights from torch's default
    generator.

    Args:
        name: "unet_narrow" (`UNet`).
        norm: normalization of every layer.
        norms: other normalizations for parts of the network, by the names that `places_of` gives.
        num_classes: number of classes, that of the background among them.
        in_channels: channels of the images.

    Raises:
        ValueError: unknown name, place or normalization, or `none+nf`.
    """
    segmentation_architecture_of(name)
    from groupnorm.models.segmentation import unet

    return unet.UNet(norm=norm, norms=norms, num_classes=num_classes, in_channels=in_channels)


def build_video_model(
    name: str,
    *,
    norm: str | NormSpec | NormLayer,
    norms: Mapping[str, str | NormSpec | NormLayer] | None = None,
    num_classes: int,
    in_channels: int = 3,
    zero_gamma: bool = True,
) -> nn.Module:
    """Build a network for clips (N, in_channels, T, H, W) by name, with fresh weights from torch's
    default generator.

    Args:
        name: "i3d_resnet50" (`I3D`, dropout 0.5) or "i3d_narrow" (`NarrowI3D`, without dropout).
        norm: normalization of every layer.
        norms: other normalizations for parts of the network, by the names that `places_of` gives.
        num_classes: number of outputs.
        in_channels: channels of the frames.
        zero_gamma: gamma = 0 on the last norm of each residual block; else 1.

    Raises:
        ValueError: unknown name, place or normalization, or `none+nf`.
    """
    video_architecture_of(name)
    if name == I3D:
        from groupnorm.models.video import i3d

        network: type[nn.Module] = i3d.I3D
    else:
        from groupnorm.models.video import i3d_narrow

        network = i3d_narrow.NarrowI3D
    return network(
        norm=norm,
        norms=norms,
        num_classes=num_classes,
        in_channels=in_channels,
        zero_gamma=zero_gamma,
    )
