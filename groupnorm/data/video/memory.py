"""Batches of clips of videos that lie in memory, as uint8."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from groupnorm.counts import counted
from groupnorm.data.batches import ALL, Step
from groupnorm.data.issues import Issues
from groupnorm.data.video.clips import (
    Clips,
    Sampling,
    VideoClips,
    VideoSet,
    frame_numbers,
    random_start,
)

TEST_CLIPS = 64
"""Clips of a test batch, as a rule: it holds whole videos, at least one."""


class VideosInMemory:
    """`VideoBatches` of a `VideoSet`.

    A training clip starts at a random frame. Where the set says what a flip makes of the labels,
    half of the clips are flipped from left to right, each whole, and get those labels.

    Args:
        sampling: which frames make a clip.
        test_clips: of a video, at equal distances (`VideoSet.test_starts`); each start counts once.
        limit: train on the first so many videos only; None for all.
        device: where videos and labels lie.

    Raises:
        ValueError: the data set has fewer training videos than `limit`.
    """

    def __init__(
        self,
        videos: VideoSet,
        sampling: Sampling,
        *,
        test_clips: int,
        limit: int | None = None,
        device: str = "cpu",
    ) -> None:
        if limit is not None and limit > videos.train_size:
            raise ValueError(
                f"train_images={limit}, but {videos.name} has {videos.train_size} training videos"
            )
        self.name, self.version = videos.name, videos.version
        self.decoders: dict[str, str] = {}
        self.num_classes, self.class_names = videos.num_classes, videos.class_names
        self.train_size, self.test_size = limit or videos.train_size, videos.test_size
        self.image_size = min(videos.train_videos.shape[2:4])
        self.sampling, self.frames = sampling, videos.frames
        self.starts = videos.test_starts(sampling, test_clips)
        self.notes = (*videos.notes, *_notes(videos, sampling, test_clips, len(self.starts)))
        self._train_videos = videos.train_videos[:limit].to(device)
        self._train_labels = videos.train_labels[:limit].to(device)
        self._test_videos = videos.test_videos.to(device)
        self._test_labels = videos.test_labels.to(device)
        self._mean, self._std = videos.mean.to(device), videos.std.to(device)
        flipped = videos.flip_labels
        self._flip_labels = None if flipped is None else torch.tensor(flipped, device=device)

    def train(self, steps: Iterable[Step], rows: slice = ALL) -> Iterator[Clips]:
        """Clips of the videos of every step's `rows`, perhaps flipped, and normalized."""
        for step in steps:
            generator = torch.Generator().manual_seed(step.seed)
            whole = len(step.indices)
            shares = torch.rand(whole, dtype=torch.float64, generator=generator)[rows]
            flipped = (torch.rand(whole, generator=generator) < 0.5)[rows]
            indices = step.indices[rows]
            frames = [
                frame_numbers(random_start(share, self.frames, self.sampling), self.sampling,
                              self.frames)
                for share in shares.tolist()
            ]  # fmt: skip
            pixels = _cut(self._train_videos, indices, torch.tensor(frames))
            labels = self._train_labels[indices.to(self._train_labels.device)]
            if self._flip_labels is not None:
                mirrored = flipped.to(pixels.device)
                pixels = torch.where(mirrored.view(-1, 1, 1, 1, 1), pixels.flip(3), pixels)
                labels = torch.where(mirrored, self._flip_labels[labels], labels)
            yield Clips(normalize(pixels, self._mean, self._std), labels)

    def test(self, first: int = 0, every: int = 1) -> Iterator[VideoClips]:
        """All test clips of some videos at a time, in their order, normalized."""
        count = len(self.starts)
        frames = torch.tensor([frame_numbers(s, self.sampling, self.frames) for s in self.starts])
        size = max(1, TEST_CLIPS // count)
        for begin in range(first * size, self.test_size, every * size):
            labels = self._test_labels[begin : begin + size]
            videos = torch.arange(len(labels)).repeat_interleave(count)
            pixels = _cut(self._test_videos, begin + videos, frames.repeat(len(labels), 1))
            inputs, device = normalize(pixels, self._mean, self._std), labels.device
            middle = torch.arange(len(labels), device=device) * count + count // 2
            yield VideoClips(inputs, videos.to(device), middle, labels)

    def data_issues(self) -> Issues:
        """Nothing: every video was read when the set was loaded."""
        return {}

    def remember(self, issues: Issues) -> None:
        """There are none, so there is nothing to add."""


def _notes(videos: VideoSet, sampling: Sampling, asked: int, clips: int) -> list[str]:
    """What of the clips is less than what was asked for, or cannot be known from them."""
    frames, notes = videos.frames, []
    stride, ceiling = sampling.stride, (videos.ceilings or {}).get(sampling.stride)
    if frames < sampling.reach:
        notes.append(
            f"the videos of {videos.name} have {frames} frames and a clip takes {sampling.reach}: "
            "their last frame is repeated"
        )
    if clips < asked:
        apart = "" if ceiling is None else f" and start a multiple of {stride} frames apart"
        notes.append(
            f"test_clips={asked}: a video of {frames} frames has {counted(clips, 'clip')} that "
            f"{'differ' if clips > 1 else 'differs'}{apart}, each of which counts once"
        )
    if ceiling is not None:
        notes.append(
            f"at stride {stride} some classes of {videos.name} look alike, so that no accuracy "
            f"above {ceiling:g} % can be expected; the test clips of a video start a multiple of "
            f"{stride} frames apart, so that all of them together show no more"
        )
    return notes


def _cut(videos: Tensor, indices: Tensor, frames: Tensor) -> Tensor:
    """Frames (n, T) of the videos `indices` (n,) of (N, F, H, W, 3): (n, T, H, W, 3)."""
    rows = indices.unsqueeze(1) * videos.shape[1] + frames
    found = videos.flatten(0, 1)[rows.flatten().to(videos.device)]
    return found.view(*frames.shape, *videos.shape[2:])


def normalize(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 (n, T, H, W, 3) -> float32 (n, 3, T, H, W): (pixels / 255 - mean) / std per channel.

    The channels stay the innermost axis in memory, as in channels_last_3d.
    """
    return pixels.float().mul_(1 / (255 * std)).sub_(mean / std).permute(0, 4, 1, 2, 3)
