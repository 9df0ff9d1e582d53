"""Names, places and images of the networks for segmentation. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from groupnorm.models.places import UNET_PLACES

UNET = "unet_narrow"
UNET_ENCODER = "unet_encoder"
UNET_WIDTHS = (16, 32, 64, 128)
"""Channels of the levels, from full size down; each level halves the maps."""
UNET_ENCODER_DEPTH = 2 * len(UNET_WIDTHS) + 1


@dataclass(frozen=True)
class SegmentationArchitecture:
    """What is known of a network without building it.

    Attributes:
        places: parts that may have a norm of their own, from input to output.
        body: the classifier whose weights its encoder can start from.
        multiple: the sides of its images are multiples of it, for it halves its maps so often.
    """

    places: tuple[str, ...]
    body: str
    multiple: int


SEGMENTATION_MODELS = {
    UNET: SegmentationArchitecture(UNET_PLACES, UNET_ENCODER, 2 ** (len(UNET_WIDTHS) - 1)),
}


def segmentation_architecture_of(name: str) -> SegmentationArchitecture:
    """The network of that name.

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    if name not in SEGMENTATION_MODELS:
        raise ValueError(
            f"unknown network for segmentation {name!r}; known: {', '.join(SEGMENTATION_MODELS)}"
        )
    return SEGMENTATION_MODELS[name]
