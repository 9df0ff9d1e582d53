"""Clips: which frames of a video they take, and the data that training and evaluation read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from groupnorm.data.batches import ALL, Step, TrainingData
from groupnorm.data.issues import DataError
from groupnorm.data.memory.image_set import check_labels
from groupnorm.data.memory.moments import pixel_moments
from groupnorm.data.validation import hold_out_rows, validation_note


@dataclass(frozen=True)
class Sampling:
    """Which frames make a clip.

    Attributes:
        frames: of a clip.
        stride: frames of the video from one of them to the next.
    """

    frames: int
    stride: int

    @property
    def span(self) -> int:
        """Frames of the video that the clip stands for, the skipped ones after its last included.

        32 frames at stride 2 and 64 contiguous ones have one span (Wu & He 2018, section 4.3), so
        that both have the same starts in every video, and the first are every second of the others.
        """
        return self.frames * self.stride

    @property
    def reach(self) -> int:
        """Frames of the video from the clip's first to its last: where it has fewer, the last one
        is repeated."""
        return (self.frames - 1) * self.stride + 1


def frame_numbers(start: int, sampling: Sampling, length: int) -> list[int]:
    """The frames of a clip, counted from 0, in a video of `length` frames.

    Where the video ends before the clip does, its last frame is repeated.
    """
    last = length - 1
    return [min(start + k * sampling.stride, last) for k in range(sampling.frames)]


def count_starts(length: int, sampling: Sampling) -> int:
    """How many starts a clip may have in a video of `length` frames; 1 in one that is too short."""
    return max(1, length - sampling.span + 1)


def random_start(share: float, length: int, sampling: Sampling) -> int:
    """The start of a training clip.

    Args:
        share: drawn uniformly from [0, 1).
        length: frames of the video.
    """
    starts = count_starts(length, sampling)
    return min(int(share * starts), starts - 1)


def evaluation_starts(length: int, sampling: Sampling, clips: int, every: int = 1) -> list[int]:
    """Where the `clips` test clips of a video start: at equal distances, to whole frames, from its
    first frame to its last; of one clip, so that it lies in the middle.

    A video with fewer starts gives fewer clips, for each start counts once.

    Args:
        every: clips start a multiple of so many frames from the one in the middle.
    """
    last = count_starts(length, sampling) - 1
    if clips == 1:
        return [last // 2]
    first = last // 2 % every
    steps = (last - first) // every
    places = {(2 * k * steps + clips - 1) // (2 * (clips - 1)) for k in range(clips)}
    return [first + every * place for place in sorted(places)]


def check_flip_labels(name: str, flipped: tuple[int, ...] | None, num_classes: int) -> None:
    """Raise DataError unless flipped labels are a permutation that is its own inverse."""
    if flipped is not None and (
        sorted(flipped) != list(range(num_classes))
        or any(flipped[other] != label for label, other in enumerate(flipped))
    ):
        raise DataError(
            f"{name}: flip_labels must give each of {num_classes} classes the one that gives it "
            f"back, got {flipped}"
        )


class Clips(NamedTuple):
    """A batch of training clips, on the device.

    Attributes:
        inputs: (B, 3, T, H, W), float32, normalized.
        labels: (B,), int64.
    """

    inputs: Tensor
    labels: Tensor


class VideoClips(NamedTuple):
    """The test clips of some whole videos, on the device.

    Attributes:
        inputs: (B, 3, T, H, W), float32, normalized.
        videos: (B,), int64, which of the V videos each clip is of, from 0 to V - 1.
        middle: (V,), int64, which clip is the middle one of each video: that of the one-clip
            accuracy. Of an even number it is the later one of the two in the middle, of several
            crops the central one.
        labels: (V,), int64, of the videos.
    """

    inputs: Tensor
    videos: Tensor
    middle: Tensor
    labels: Tensor


class VideoBatches(TrainingData, Protocol):
    """Training and test clips of labelled videos.

    Attributes:
        train_size: number of training videos; the indices of a step are of them.
        test_size: number of test videos.
        image_size: pixels of the shorter side of the clips.
    """

    num_classes: int
    train_size: int
    test_size: int
    image_size: int

    def train(self, steps: Iterable[Step], rows: slice = ALL) -> Iterator[Clips]:
        """For every step a clip of each of its videos, at a random start, and the labels.

        Args:
            rows: which places of every step to make; a process makes its share.
        """
        ...

    def test(self, first: int = 0, every: int = 1) -> Iterator[VideoClips]:
        """Every `every`-th batch of the test videos, from batch `first` on."""
        ...


@dataclass(frozen=True, eq=False)
class VideoSet:
    """A video data set in memory, or in files that are mapped into it.

    Attributes:
        name: one of `groupnorm.data.VIDEO_NAMES`.
        version: changes whenever the pixels or labels of this name change.
        train_videos: uint8 (N, F, H, W, 3), contiguous; F frames each.
        train_labels: int64 (N,), in [0, num_classes).
        test_videos: uint8 (M, F, H, W, 3), contiguous.
        test_labels: int64 (M,).
        class_names: one name per class.
        flip_labels: the label of each class after a horizontal flip, as that of right is left;
            None where no training clip is to be flipped.
        ceilings: stride -> the greatest accuracy that clips at that stride permit, in percent,
            where it is known and below 100. It is that of one clip, and of several that start a
            multiple of the stride apart: see `test_starts`.
        notes: what whoever trains on it should know, in sentences.

    Raises:
        DataError: tensors of the wrong type or shape, labels out of range, or flipped labels that
            are not a permutation that is its own inverse.
    """

    name: str
    version: str
    train_videos: Tensor
    train_labels: Tensor
    test_videos: Tensor
    test_labels: Tensor
    class_names: tuple[str, ...]
    flip_labels: tuple[int, ...] | None
    ceilings: Mapping[int, float] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for split in ("train", "test"):
            videos: Tensor = getattr(self, f"{split}_videos")
            labels: Tensor = getattr(self, f"{split}_labels")
            what = f"{self.name}, {split}"
            shape = tuple(videos.shape)
            if videos.dtype != torch.uint8 or videos.dim() != 5 or not videos.is_contiguous():
                raise DataError(
                    f"{what}: expected contiguous uint8 videos (N, F, H, W, 3), "
                    f"got {videos.dtype} {shape}"
                )
            if shape[1:] != tuple(self.train_videos.shape[1:]) or shape[4] != 3 or 0 in shape:
                raise DataError(
                    f"{what}: expected videos of shape (F, H, W, 3), the same in both splits and "
                    f"at least one, got {shape}"
                )
            check_labels(what, labels, len(videos), self.num_classes)
        check_flip_labels(self.name, self.flip_labels, self.num_classes)

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def train_size(self) -> int:
        """The number of training videos."""
        return len(self.train_labels)

    @property
    def test_size(self) -> int:
        """The number of test videos."""
        return len(self.test_labels)

    @property
    def frames(self) -> int:
        """The number of frames of every video."""
        return self.train_videos.shape[1]

    def test_starts(self, sampling: Sampling, clips: int) -> list[int]:
        """Where the test clips of every video start: `evaluation_starts`.

        Where the stride has a ceiling, they start a multiple of the stride apart. Clips that start
        at other frames hold those that each of them skips, so that all of them together would tell
        more than the ceiling permits.
        """
        every = sampling.stride if sampling.stride in (self.ceilings or {}) else 1
        return evaluation_starts(self.frames, sampling, clips, every)

    def hold_out(self, count: int | None) -> VideoSet:
        """The same with `count` training videos in place of the test videos; None changes nothing.

        They are the last ones of each class.

        Raises:
            ValueError: so many cannot be held out.
        """
        if count is None:
            return self
        every = torch.arange(self.train_size)
        kept, held = hold_out_rows(self.train_labels, every, count, self.name, self.class_names)
        return replace(
            self,
            train_videos=self.train_videos[kept],
            train_labels=self.train_labels[kept],
            test_videos=self.train_videos[held],
            test_labels=self.train_labels[held],
            notes=(*self.notes, validation_note(count, "videos")),
        )

    @cached_property
    def mean(self) -> Tensor:
        """Mean of the training pixels per channel, float32 (3,), pixels in [0, 1]."""
        return self._moments[0]

    @cached_property
    def std(self) -> Tensor:
        """Standard deviation of the training pixels per channel, float32 (3,), in [0, 1]."""
        return self._moments[1]

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        return pixel_moments(self.train_videos, 4)
