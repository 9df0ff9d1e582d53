"""Depths and channel counts of the networks, as data: a study is planned without torch."""

from __future__ import annotations

from typing import NamedTuple

CIFAR_DEPTHS = (8, 14, 20, 32, 44, 56, 110)
BLOCKS_PER_STAGE = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
"""Of the ImageNet ResNets, by depth."""
VGG_WIDTHS = (64, 128, 256, 512)
NARROW_RESNET = "resnet14_narrow"
NARROW_WIDTHS = (32, 64, 128)
MOBILENET = "mobilenet_narrow"
MOBILENET_DEPTH = 29
MOBILENET_STEM = 16
MOBILENET_LAST = 256
"""Channels of the last 1x1 convolution, which belongs to the last stage."""


class InvertedStage(NamedTuple):
    """Inverted residuals between two changes of the maps' size.

    Attributes:
        expansion: factor on a block's input channels inside it.
        channels: that each block gives.
        blocks: how many there are.
        stride: of the first one.
    """

    expansion: int
    channels: int
    blocks: int
    stride: int


MOBILENET_STAGES = (
    InvertedStage(1, 16, 1, 1),
    InvertedStage(6, 24, 2, 2),
    InvertedStage(6, 32, 3, 2),
    InvertedStage(6, 64, 3, 2),
)


def cifar_widths(width: float) -> tuple[int, int, int]:
    """Channels of the three stages: 16, 32 and 64 times `width`.

    Raises:
        ValueError: a stage would have no channels.
    """
    first, second, third = (round(channels * width) for channels in (16, 32, 64))
    if first < 1:
        raise ValueError(f"width {width} leaves no channels; it must be at least 1/16")
    return first, second, third


def imagenet_widths(depth: int) -> tuple[int, ...]:
    """The channel counts that the norms of an ImageNet ResNet see, in ascending order."""
    return (64, 128, 256, 512) if depth < 50 else (64, 128, 256, 512, 1024, 2048)


def preact_widths(width: float) -> dict[str, tuple[int, ...]]:
    """Channels that the norms of each place of a pre-activation ResNet see.

    The first norm of a stage stands before the convolution that changes the number of channels.

    Raises:
        ValueError: as `cifar_widths`.
    """
    first, second, third = cifar_widths(width)
    return {
        "stem": (first,),
        "stage1": (first,),
        "stage2": (first, second),
        "stage3": (second, third),
    }


def mobilenet_widths() -> dict[str, tuple[int, ...]]:
    """Channels that the norms of each place of the narrow MobileNet see, in rising order."""
    found: dict[str, tuple[int, ...]] = {"stem": (MOBILENET_STEM,)}
    channels = MOBILENET_STEM
    for number, stage in enumerate(MOBILENET_STAGES, 1):
        seen = {stage.channels}
        for _ in range(stage.blocks):
            seen.add(channels * stage.expansion)
            channels = stage.channels
        if number == len(MOBILENET_STAGES):
            seen.add(MOBILENET_LAST)
        found[f"stage{number}"] = tuple(sorted(seen))
    return found
