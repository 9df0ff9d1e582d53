"""How a video classifier is set up; the functions are those of `Setup`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from groupnorm import data as datasets
from groupnorm import models
from groupnorm.conversion import inflate, recomputed_statistics
from groupnorm.cost.timing import Step as TimedStep
from groupnorm.data import VideoBatches, VideoSet
from groupnorm.data.video.clips import Sampling
from groupnorm.data.video.memory import VideosInMemory
from groupnorm.run.sampled_clips import SampledClips, crop_sizes
from groupnorm.run.setup import built, check_held_out, decoders, labelled_step, without_last_layer
from groupnorm.training.config import VideoConfig
from groupnorm.training.distributed import ALONE, Processes
from groupnorm.training.step import running_statistics
from groupnorm.training.tasks.video import VideoClassification, network_input
from groupnorm.training.warm_start import WarmStart, WarmStartError, check_norms

SAMPLED = "clips"
_OF_IMAGES = {"i3d_resnet50": "resnet50"}
"""Networks for clips, and those for images whose weights can be inflated to theirs."""


def load(config: VideoConfig, device: str, data_root: Path | None) -> VideoBatches:
    """The data of a configuration, ready for training on `device`.

    Video files are decoded in worker processes (`decoders`).

    Raises:
        DataError: the data set is missing or damaged, or PyAV, which decodes files, is.
        ValueError: it has fewer videos than the configuration trains on and holds out.
    """
    videos = datasets.load_video(config.data, data_root)
    check_held_out(config, videos.train_size, "video")
    videos = videos.hold_out(config.validation_images)
    sampling = Sampling(config.frames, config.stride)
    if isinstance(videos, VideoSet):
        return VideosInMemory(
            videos,
            sampling,
            test_clips=config.test_clips,
            limit=config.train_images,
            device=device,
        )
    from groupnorm.data.video.batches import FromVideoFiles  # which needs pillow

    return FromVideoFiles(
        videos.sample_train(config.train_images),
        sampling,
        crop_sizes(config, videos),
        test_clips=config.test_clips,
        test_crops=config.test_crops,
        processes=decoders(),
        device=device,
        max_unreadable=config.max_unreadable,
    )


def build(config: VideoConfig, data: VideoBatches, device: str) -> nn.Module:
    """The network of a configuration with its first weights, for the classes of the data."""
    return built(
        config,
        device,
        lambda norm, of_places: models.build_video_model(
            config.model, norm=norm, norms=of_places, num_classes=data.num_classes
        ),
    )


def built_for(config: VideoConfig, data: VideoBatches) -> None:
    """Nothing: a video classifier is used with its data set."""


def make_task(
    config: VideoConfig, data: VideoBatches, model: nn.Module, processes: Processes
) -> VideoClassification:
    """Video classification, with recomputed statistics where a norm has running ones.

    Raises:
        ValueError: fewer training videos than clips in a step, or half precision that the CPU
            cannot compute these clips in.
    """
    _check_half_precision(config, data, model)
    recompute = recomputed_statistics if running_statistics(model) else None
    return VideoClassification(config, data, recompute, processes)


def _check_half_precision(config: VideoConfig, data: VideoBatches, model: nn.Module) -> None:
    """Refuse bfloat16 on the CPU where a convolution is longer than the clip that it sees.

    The gradient of its weights is then garbage (PyTorch 2.14 with oneDNN: 5 frames on 4, 3 on 2).
    """
    device = next(model.parameters()).device
    if config.precision != "bfloat16" or device.type != "cpu":
        return
    longer: list[str] = []

    def look(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, nn.Conv3d)
        kernel, frames = layer.kernel_size[0], inputs[0].shape[2]
        if kernel > frames:
            longer.append(f"{kernel} frames on {frames}")

    handles = [
        layer.register_forward_pre_hook(look)
        for layer in model.modules()
        if isinstance(layer, nn.Conv3d)
    ]
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, config.frames, data.image_size, data.image_size))
    finally:
        model.train()
        for handle in handles:
            handle.remove()
    if longer:
        raise ValueError(
            "precision=bfloat16: on the CPU PyTorch computes wrong gradients of convolutions over "
            f"more frames than there are, as here ({longer[0]}); use more frames than "
            f"{config.frames}, or precision=float32"
        )


def notes(config: VideoConfig, data: VideoBatches) -> list[str]:
    """Nothing: what there is to know of the clips is among the notes of the data."""
    return []


def warm_start(config: VideoConfig, model: nn.Module, other: Mapping[str, Any]) -> WarmStart:
    """From a classifier of images all weights but the last layer's, inflated in time (`inflate`).

    From a video classifier all weights, those of the last linear layer only if the data set is the
    same.

    Raises:
        WarmStartError: a run with another norm (`check_norms`), a classifier of images of another
            architecture, or weights that cannot be inflated.
    """
    check_norms(config, other)
    if other.get("task") == config.task:
        return WarmStart() if other["data"] == config.data else without_last_layer(model)
    of_images = _OF_IMAGES.get(config.model)
    if of_images is None or other["model"] != of_images:
        takes = f"it takes those of {of_images}" if of_images else "it takes those of videos alone"
        raise WarmStartError(f"they are of {other['model']}, {takes}")

    def inflated(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        try:
            return inflate(weights, model)
        except ValueError as error:
            raise WarmStartError(str(error)) from None

    return replace(without_last_layer(model), convert=inflated)


def samples(config: VideoConfig, data_root: Path | None, count: int) -> SampledClips:
    """The first test videos that can be decoded, with their classes."""
    videos = datasets.load_video(config.data, data_root).hold_out(config.validation_images)
    return SampledClips(config, videos, count, build)


def first_step(
    config: VideoConfig, data: VideoBatches, model: nn.Module, processes: Processes = ALONE
) -> TimedStep:
    """The first clips of the training, as many as a pass of one process sees."""
    return labelled_step(config, data, model, processes, lambda clips: network_input(clips, config))
