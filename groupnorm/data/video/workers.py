"""What the worker processes do: one training clip, or all test clips of one video, from a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from groupnorm.data.files.decode import UnreadableError
from groupnorm.data.files.transforms import draws_of
from groupnorm.data.files.workers import first_readable
from groupnorm.data.issues import DataError
from groupnorm.data.video.clips import (
    Sampling,
    evaluation_starts,
    frame_numbers,
    random_start,
)
from groupnorm.data.video.decode import open_video
from groupnorm.data.video.listing import VideoFiles
from groupnorm.data.video.transforms import (
    Crop,
    CropSizes,
    Draws,
    cut_out,
    evaluation_crops,
    training_crop,
)


class Example(NamedTuple):
    """A training example: the seed of its step, its position there, and which video it is of."""

    seed: int
    position: int
    video: int


class Decoded(NamedTuple):
    """Clips of one video.

    Attributes:
        clips: uint8 (n, T, S, S, 3): of each start its crops, one after another.
        starts: how many starts these are of.
        flipped: they are flipped from left to right.
        short: why their last frame is repeated, or nothing.
        rotated: their frames are stored in another orientation.
    """

    clips: Tensor
    starts: int
    flipped: bool
    short: str
    rotated: bool


class Loaded(NamedTuple):
    """What comes back: the clips of one video, and what is wrong with files.

    Attributes:
        clips: as of `Decoded`; none where the video is left out.
        middle: which clip is the middle one.
        label: of the clips.
        unreadable: indices of files that could not be decoded -> what is wrong with them.
        short: likewise of files with fewer frames than a clip takes.
        rotated: likewise of files whose frames had to be turned.
        failure: the message of a DataError, or nothing.
    """

    clips: Tensor
    middle: int
    label: int
    unreadable: dict[int, str]
    short: dict[int, str]
    rotated: dict[int, str]
    failure: str = ""


class TrainClips(Dataset[Loaded]):
    """A clip of a training video; the item of an `Example`."""

    def __init__(self, files: VideoFiles, sampling: Sampling, sizes: CropSizes) -> None:
        self.files, self.sampling, self.sizes = files, sampling, sizes

    def __getitem__(self, example: Example) -> Loaded:
        with draws_of(example.seed, example.position):
            draws = Draws(*torch.rand(len(Draws._fields), dtype=torch.float64).tolist())
        flip_labels = self.files.flip_labels

        def crops(height: int, width: int) -> list[Crop]:
            flip = flip_labels is not None
            return [training_crop(height, width, self.sizes, draws, flip=flip)]

        def starts(length: int) -> list[int]:
            return [random_start(draws.start, length, self.sampling)]

        def read(path: str) -> Decoded:
            return read_clips(path, self.sampling, starts, crops)

        unreadable: dict[int, str] = {}
        try:
            index, decoded = first_readable(self.files, example.video, read, unreadable)
        except DataError as error:
            return _nothing(unreadable, str(error))
        label = int(self.files.train_labels[index])
        if decoded.flipped and flip_labels is not None:
            label = flip_labels[label]
        return _loaded(index, label, decoded, unreadable)


class EvaluationClips(Dataset[Loaded]):
    """The clips of a test video, none where it cannot be decoded; the item of an index."""

    def __init__(
        self, files: VideoFiles, sampling: Sampling, sizes: CropSizes, clips: int, crops: int
    ) -> None:
        self.paths, self.labels = files.test_paths, files.test_labels
        self.sampling, self.sizes = sampling, sizes
        self.clips, self.crops = clips, crops

    def __getitem__(self, index: int) -> Loaded:
        def crops(height: int, width: int) -> list[Crop]:
            return evaluation_crops(height, width, self.sizes, self.crops)

        def starts(length: int) -> list[int]:
            return evaluation_starts(length, self.sampling, self.clips)

        try:
            decoded = read_clips(self.paths[index], self.sampling, starts, crops)
        except UnreadableError as error:
            return _nothing({index: str(error)})
        except DataError as error:
            return _nothing({}, str(error))
        return _loaded(index, int(self.labels[index]), decoded, {})


def read_clips(
    path: str,
    sampling: Sampling,
    choose_starts: Callable[[int], Sequence[int]],
    choose_crops: Callable[[int, int], Sequence[Crop]],
) -> Decoded:
    """Clips of a video file. Each frame is decoded once, and of it the crops alone are kept.

    Args:
        path: the file.
        sampling: which frames make a clip.
        choose_starts: number of frames -> where clips start.
        choose_crops: height and width of a frame -> what is cut out of it.

    Raises:
        UnreadableError: the file is no video that can be decoded.
        DataError: it cannot be opened.
    """
    cuts: dict[int, Tensor] = {}
    crops: Sequence[Crop] = ()
    with open_video(path) as video:
        starts = choose_starts(video.length)
        clips = [frame_numbers(start, sampling, video.length) for start in starts]
        numbers = sorted({number for clip in clips for number in clip})
        for number, frame in zip(numbers, video.frames(numbers), strict=True):
            crops = crops or choose_crops(*frame.shape[:2])
            cuts[number] = torch.from_numpy(cut_out(frame, crops))
    return Decoded(
        torch.cat([torch.stack([cuts[number] for number in clip], 1) for clip in clips]),
        len(starts),
        crops[0].flip,
        f"{video.length} frames of {sampling.reach}" if video.length < sampling.reach else "",
        video.rotated,
    )


def _loaded(index: int, label: int, decoded: Decoded, unreadable: dict[int, str]) -> Loaded:
    crops = len(decoded.clips) // decoded.starts
    return Loaded(
        decoded.clips,
        decoded.starts // 2 * crops + crops // 2,
        label,
        unreadable,
        {index: decoded.short} if decoded.short else {},
        {index: "turned upright"} if decoded.rotated else {},
    )


def _nothing(unreadable: dict[int, str], failure: str = "") -> Loaded:
    return Loaded(torch.empty(0, dtype=torch.uint8), 0, 0, unreadable, {}, {}, failure)
