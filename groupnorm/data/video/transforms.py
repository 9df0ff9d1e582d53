"""How frames of any size become square crops, the same for all frames of a clip.

Training: a random short side, a random crop, a flip of half of the clips. Evaluation: the centre
of a fixed short side, or three crops along the longer side. As in the non-local networks' baseline
(Wang et al., CVPR 2018, section 4.1) a crop of 224 pixels comes with short sides of 256 to 320 in
training and of 256 in evaluation; other sizes keep these proportions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from groupnorm.data.video.decode import Frame


@dataclass(frozen=True)
class CropSizes:
    """Sizes in pixels.

    Attributes:
        crop: height and width of what is cut out.
        shortest: of the short sides to which training clips are resized, the smallest.
        longest: and the largest.
        evaluation: the short side to which evaluation clips are resized.

    Raises:
        ValueError: the crop does not fit.
    """

    crop: int
    shortest: int
    longest: int
    evaluation: int

    def __post_init__(self) -> None:
        if not 1 <= self.crop <= self.shortest <= self.longest or self.evaluation < self.crop:
            raise ValueError(
                "expected 1 <= crop <= shortest <= longest and crop <= evaluation, got "
                f"crop={self.crop}, shortest={self.shortest}, longest={self.longest}, "
                f"evaluation={self.evaluation}"
            )

    @classmethod
    def of(cls, crop: int) -> CropSizes:
        """The usual sizes for a crop: 256 to 320 and 256 for one of 224 pixels."""
        usual = round(crop * 256 / 224)
        return cls(crop, usual, round(crop * 320 / 224), usual)

    @classmethod
    def whole(cls, size: int) -> CropSizes:
        """Those of frames that are `size` pixels high and wide, which stay as they are."""
        return cls(size, size, size, size)


class Draws(NamedTuple):
    """What is random about a training clip, drawn uniformly from [0, 1)."""

    start: float
    short_side: float
    top: float
    left: float
    flip: float


class Crop(NamedTuple):
    """A square that is cut out of a frame which has been resized, in pixels of that frame."""

    height: int
    width: int
    top: int
    left: int
    size: int
    flip: bool


def training_crop(height: int, width: int, sizes: CropSizes, draws: Draws, *, flip: bool) -> Crop:
    """The random crop of a clip whose frames have this height and width.

    Args:
        flip: half of the crops are flipped from left to right.
    """
    short = sizes.shortest + int(draws.short_side * (sizes.longest - sizes.shortest + 1))
    height, width = resized(height, width, short)
    top = int(draws.top * (height - sizes.crop + 1))
    left = int(draws.left * (width - sizes.crop + 1))
    return Crop(height, width, top, left, sizes.crop, flip and draws.flip < 0.5)


def evaluation_crops(height: int, width: int, sizes: CropSizes, count: int) -> list[Crop]:
    """The centre, or `count` crops from one end of the longer side to the other, the centre among
    them.

    Args:
        count: odd.
    """
    height, width = resized(height, width, sizes.evaluation)
    free_height, free_width = height - sizes.crop, width - sizes.crop
    shares = [k / (count - 1) for k in range(count)] if count > 1 else [0.5]
    along_height = height > width
    return [
        Crop(
            height,
            width,
            round(free_height * (share if along_height else 0.5)),
            round(free_width * (0.5 if along_height else share)),
            sizes.crop,
            flip=False,
        )
        for share in shares
    ]


def resized(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width when the shorter of them becomes `short_side`."""
    scale = short_side / min(height, width)
    return max(short_side, round(height * scale)), max(short_side, round(width * scale))


def cut_out(frame: Frame, crops: Sequence[Crop]) -> Frame:
    """The crops of a frame, uint8 (crops, size, size, 3), interpolated bilinearly."""
    height, width = frame.shape[:2]
    image = Image.fromarray(np.ascontiguousarray(frame))
    cut = np.empty((len(crops), crops[0].size, crops[0].size, 3), np.uint8)
    for number, crop in enumerate(crops):
        down, across = height / crop.height, width / crop.width
        box = (
            crop.left * across,
            crop.top * down,
            min(width, (crop.left + crop.size) * across),
            min(height, (crop.top + crop.size) * down),
        )
        pixels = np.asarray(
            image.resize((crop.size, crop.size), Image.Resampling.BILINEAR, box=box)
        )
        cut[number] = pixels[:, ::-1] if crop.flip else pixels
    return cut
