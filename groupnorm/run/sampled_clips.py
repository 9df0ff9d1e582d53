"""The first test videos of a data set, and what trained networks take them for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from groupnorm.data.issues import DataError
from groupnorm.data.video.clips import Sampling, VideoSet, frame_numbers
from groupnorm.data.video.listing import VideoFiles
from groupnorm.data.video.memory import normalize
from groupnorm.training.config import VideoConfig
from groupnorm.training.config.video import IMAGE_SIZE
from groupnorm.training.tasks.video import network_input
from groupnorm.training.warm_start import WarmStart, WarmStartError, load_weights

if TYPE_CHECKING:
    from groupnorm.data.video.transforms import CropSizes

MOST_FRAMES = 16
"""So many frames are shown at most of the clip in the middle of a video, from its first one on at
distances that differ by a frame at most."""
MOST_PIXELS = 96
"""The longer side of a shown frame at most."""

Build = Callable[[VideoConfig, Any, str], nn.Module]
Videos = VideoSet | VideoFiles


class SampledClips:
    """The first test videos of a data set that can be decoded, with their classes.

    The attributes are those of `groupnorm.run.setup.SampledImages`; each of `images` has `file`,
    `video` (its number among the test videos), `height` and `width` of a frame, `frames` (how many
    stand side by side in the file) and `truth`, a class.

    Args:
        config: of a run; others are compared with it. Its middle clip is what is shown, which is
            that of every length of the same span.
        videos: its data set.
        count: how many videos.
        build: the network of a configuration, for a data set, on a device.

    Raises:
        DataError: a file cannot be opened.
    """

    def __init__(self, config: VideoConfig, videos: Videos, count: int, build: Build) -> None:
        self.config, self._videos, self._build = config, videos, build
        self.categories = list(videos.class_names)
        self.images: list[dict[str, Any]] = []
        self.pixels: list[NDArray[np.uint8]] = []
        self.unreadable: dict[str, str] = {}
        span = _span(config)
        frames = min(span, MOST_FRAMES)
        chosen = [k * span // frames for k in range(frames)]
        for index, label in enumerate(videos.test_labels.tolist()):
            if len(self.images) == count:
                break
            clips, why = _test_clips(videos, config, index, Sampling(span, 1), 1)
            if why:
                self.unreadable[str(index)] = why
                continue
            shown = [_small(frame) for frame in clips[len(clips) // 2][chosen].numpy()]
            height, width = shown[0].shape[:2]
            self.pixels.append(np.concatenate(shown, 1))
            self.images.append({
                "file": f"{index}.png",
                "video": index,
                "height": height,
                "width": width,
                "frames": frames,
                "truth": self.categories[label],
            })  # fmt: skip

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
        if _span(config) != _span(self.config):
            raise ValueError(
                f"its clips span {_span(config)} frames, those that are shown {_span(self.config)}"
            )
        model = self._build(config, self._videos, "cpu")
        try:
            load_weights(model, weights, WarmStart())
        except WarmStartError as error:
            raise ValueError(f"the weights do not fit {config.model}: {error}") from None
        model.eval()
        objects: list[list[dict[str, Any]]] = []
        not_finite = 0
        for image in self.images:
            chance, best = self._chances(config, model, image["video"]).max(0)
            finite = math.isfinite(float(chance))
            not_finite += not finite
            named = {"category": self.categories[int(best)], "score": round(float(chance), 4)}
            objects.append([named] if finite and float(chance) >= lowest_score else [])
        return {"objects": objects, "not_finite": not_finite}

    def _chances(self, config: VideoConfig, model: nn.Module, index: int) -> Tensor:
        """The probability of every class, averaged over the test clips of a video: (classes,)."""
        sampling = Sampling(config.frames, config.stride)
        clips, why = _test_clips(self._videos, config, index, sampling, config.test_clips)
        if why:
            raise ValueError(f"test video {index} cannot be decoded any more: {why}")
        mean, std = _moments(self._videos)
        half = config.precision == "bfloat16"
        found = []
        for clip in clips:  # one at a time, because a clip may be large
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                logits = model(network_input(normalize(clip[None], mean, std), config))
            found.append(logits[0].float().softmax(0))
        return torch.stack(found).mean(0)


def crop_sizes(config: VideoConfig, files: VideoFiles) -> CropSizes:
    """What a run cuts out of the frames of video files, in training and evaluation.

    Frames of one size are taken whole, whatever the configuration says.
    """
    from groupnorm.data.video.transforms import CropSizes  # which needs pillow

    if files.frame_size is not None:
        return CropSizes.whole(files.frame_size)
    return CropSizes.of(config.image_size or IMAGE_SIZE)


def _test_clips(
    videos: Videos, config: VideoConfig, index: int, sampling: Sampling, count: int
) -> tuple[Tensor, str]:
    """Test clips of a video, uint8 (n, T, H, W, 3), as the test of a run takes them.

    Args:
        count: how many of them.

    Returns:
        The clips, and why there are none of a file that cannot be decoded.
    """
    if isinstance(videos, VideoSet):
        video, length = videos.test_videos[index], videos.frames
        starts = videos.test_starts(sampling, count)
        return torch.stack([video[frame_numbers(s, sampling, length)] for s in starts]), ""
    from groupnorm.data.video.workers import EvaluationClips  # which needs PyAV

    sizes = crop_sizes(config, videos)
    loaded = EvaluationClips(videos, sampling, sizes, count, config.test_crops)[index]
    if loaded.failure:
        raise DataError(loaded.failure)
    return loaded.clips, loaded.unreadable.get(index, "")


def _moments(videos: Videos) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of pixels per channel, in [0, 1]."""
    if isinstance(videos, VideoSet):
        return videos.mean, videos.std
    from groupnorm.data.files.transforms import MEAN, STD

    return torch.tensor(videos.mean or MEAN), torch.tensor(videos.std or STD)


def _small(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A frame, smaller where it has more than `MOST_PIXELS`."""
    height, width = frame.shape[:2]
    share = MOST_PIXELS / max(height, width)
    if share >= 1:
        return frame
    size = max(1, round(width * share)), max(1, round(height * share))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS))


def _span(config: VideoConfig) -> int:
    return Sampling(config.frames, config.stride).span
