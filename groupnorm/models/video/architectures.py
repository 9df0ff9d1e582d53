"""Names, places and clips of the networks for video. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from groupnorm.models.places import IMAGENET_PLACES, NARROW_PLACES

I3D = "i3d_resnet50"
I3D_NARROW = "i3d_narrow"


@dataclass(frozen=True)
class VideoArchitecture:
    """What is known of a network without building it.

    Attributes:
        places: parts that may have a norm of their own, from input to output.
        frames: of the clips that it is usually trained on.
        size: side of their frames in pixels.
        classes: number of outputs.
        fewest_frames: that leave the last maps a frame.
        smallest_size: that leaves the last maps more than one position.
    """

    places: tuple[str, ...]
    frames: int
    size: int
    classes: int
    fewest_frames: int
    smallest_size: int


VIDEO_MODELS = {
    I3D: VideoArchitecture(IMAGENET_PLACES, 32, 224, 400, 7, 33),
    I3D_NARROW: VideoArchitecture(NARROW_PLACES, 16, 16, 10, 1, 9),
}


def video_architecture_of(name: str) -> VideoArchitecture:
    """The network of that name.

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    if name not in VIDEO_MODELS:
        raise ValueError(
            f"unknown network for video {name!r}; known: {', '.join(VIDEO_MODELS)} (the first for "
            "clips of 224 pixels, the second for clips of 16)"
        )
    return VIDEO_MODELS[name]
