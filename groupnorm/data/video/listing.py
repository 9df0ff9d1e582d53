"""VideoFiles: a data set of labelled videos as lists of video files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from groupnorm.data.files.listing import ImageFiles
from groupnorm.data.video.clips import check_flip_labels


@dataclass(frozen=True, eq=False)
class VideoFiles(ImageFiles):
    """A data set of labelled videos on disk, which are decoded when they are needed.

    Lists, samples and what is held out are as of image files.

    Attributes:
        flip_labels: the label of each class after a horizontal flip, as that of right is left;
            None where no training clip is to be flipped.
        mean: of the pixels in [0, 1], per channel; None for that of ImageNet's, with which the
            networks are trained whose weights video networks start from.
        std: their standard deviation, likewise.
        frame_size: height and width of all frames, which are then taken whole; None for frames of
            any size, out of which crops are cut.

    Raises:
        DataError: what `ImageFiles` refuses, or flipped labels that are not a permutation that is
            its own inverse.
    """

    noun: ClassVar[str] = "video"

    flip_labels: tuple[int, ...] | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    frame_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flip_labels(self.name, self.flip_labels, self.num_classes)
