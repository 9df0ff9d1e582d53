"""Depths and channel counts of the networks, as data: a study is planned without torch."""

from __future__ import annotations

CIFAR_DEPTHS = (8, 14, 20, 32, 44, 56, 110)
BLOCKS_PER_STAGE = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
"""Of the ImageNet ResNets, by depth."""
VGG_WIDTHS = (64, 128, 256, 512)
NARROW_RESNET = "resnet14_narrow"
NARROW_WIDTHS = (32, 64, 128)


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
