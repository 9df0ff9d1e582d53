"""The first test videos of a data set in memory, and what trained networks take them for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from groupnorm.data.video.clips import (
    Sampling,
    VideoBatches,
    VideoSet,
    evaluation_starts,
    frame_numbers,
)
from groupnorm.data.video.memory import VideosInMemory
from groupnorm.training.config import VideoConfig
from groupnorm.training.tasks.video import network_input
from groupnorm.training.warm_start import WarmStart, WarmStartError, load_weights

MOST_FRAMES = 16
"""So many frames of a video are shown at most, at equal distances in its middle clip."""

Build = Callable[[VideoConfig, VideoBatches, str], nn.Module]


class SampledClips:
    """The first test videos of a data set, with their classes.

    The attributes are those of `groupnorm.run.setup.SampledImages`; each of `images` has `file`,
    `video` (its number among the test videos), `height` and `width` of a frame, `frames` (how many
    stand side by side in the file) and `truth`, a class.

    Args:
        config: of a run; others are compared with it. Its middle clip is what is shown, which is
            that of every length of the same span.
        videos: its data set.
        count: how many videos.
        build: the network of a configuration, for some data, on a device.
    """

    def __init__(self, config: VideoConfig, videos: VideoSet, count: int, build: Build) -> None:
        self.config, self._build = config, build
        first, labels = videos.test_videos[:count], videos.test_labels[:count]
        self._videos = replace(videos, test_videos=first, test_labels=labels)
        self.categories = list(videos.class_names)
        self.unreadable: dict[str, str] = {}
        shown = self._shown_frames()
        height, width = first.shape[2:4]
        self.pixels: list[NDArray[np.uint8]] = [
            video[shown].permute(1, 0, 2, 3).reshape(height, len(shown) * width, 3).numpy()
            for video in first
        ]
        self.images: list[dict[str, Any]] = [
            {
                "file": f"{number}.png",
                "video": number,
                "height": height,
                "width": width,
                "frames": len(shown),
                "truth": self.categories[label],
            }
            for number, label in enumerate(labels.tolist())
        ]

    def _shown_frames(self) -> list[int]:
        frames, span = self._videos.frames, _span(self.config)
        (start,) = evaluation_starts(frames, Sampling(span, 1), 1)
        count = min(span, MOST_FRAMES)
        return frame_numbers(start, Sampling(count, span // count), frames)

    @torch.no_grad()
    def predict(
        self,
        config: VideoConfig,
        built_for: Mapping[str, Any],
        weights: Mapping[str, Tensor],
        lowest_score: float,
    ) -> dict[str, Any]:
        """What the network of another run takes the videos for; errors as in `SampledImages`.

        The softmax is averaged over the clips of a video, as in the test of the run.

        Args:
            built_for: nothing; the network is built for the data set.
            lowest_score: a class is left out whose probability is lower.

        Returns:
            `objects`, for each video the most likely class with its probability to 1e-4 as `score`,
            alone in a list, and `not_finite`, how many probabilities were no numbers.
        """
        for field in ("data", "validation_images"):
            ours, theirs = getattr(self.config, field), getattr(config, field)
            if ours != theirs:
                raise ValueError(f"its test videos are others: {field} is {theirs}, not {ours}")
        if _span(config) != (span := _span(self.config)):
            raise ValueError(f"its clips span {_span(config)} frames, not {span} as those shown")
        data = VideosInMemory(
            self._videos, Sampling(config.frames, config.stride), test_clips=config.test_clips
        )
        model = self._build(config, data, "cpu")
        try:
            load_weights(model, weights, WarmStart())
        except WarmStartError as error:
            raise ValueError(f"the weights do not fit {config.model}: {error}") from None
        model.eval()
        objects: list[list[dict[str, Any]]] = []
        not_finite = 0
        for inputs, videos, _, labels in data.test():
            with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bfloat16"):
                logits = model(network_input(inputs, config))
            chances = logits.float().softmax(1)
            for video in range(len(labels)):
                chance, best = chances[videos == video].mean(0).max(0)
                finite = math.isfinite(float(chance))
                not_finite += not finite
                shown = finite and float(chance) >= lowest_score
                named = {"category": self.categories[int(best)], "score": round(float(chance), 4)}
                objects.append([named] if shown else [])
        return {"objects": objects, "not_finite": not_finite}


def _span(config: VideoConfig) -> int:
    return Sampling(config.frames, config.stride).span
