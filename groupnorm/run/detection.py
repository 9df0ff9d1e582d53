"""How a detector is set up; the functions are those of `Setup`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groupnorm import data as datasets
from groupnorm.conversion import recomputed_statistics
from groupnorm.cost.timing import Step as TimedStep
from groupnorm.data import AnnotatedBatches, DetectionSet
from groupnorm.data.batches import Step, generator_of
from groupnorm.data.detection.annotations import AnnotatedImage
from groupnorm.data.detection.examples import Size
from groupnorm.models.detection.architectures import architecture_of
from groupnorm.run import detector
from groupnorm.run.detector import BuiltFor
from groupnorm.run.sampled_scenes import SampledScenes
from groupnorm.run.setup import decoders
from groupnorm.spec import NormSpec
from groupnorm.training.config import DetectionConfig
from groupnorm.training.distributed import ALONE, Processes
from groupnorm.training.step import running_statistics
from groupnorm.training.tasks.detection import Detection
from groupnorm.training.warm_start import WarmStart, WarmStartError, check_norm, check_norms

SAMPLED = "objects"
EVALUATION_BATCH = 8
MEMORY = 512 * 2**20
"""Bytes of decoded images that are kept in memory; larger data sets are decoded every time."""
_BODY = "backbone.body."
_C4_STAGE = "roi_heads.box_head."
_OF_CLASSES = (
    "roi_heads.box_predictor.",
    "roi_heads.mask_predictor.",
    "head.classification_head.cls_logits.",
)


def load(config: DetectionConfig, device: str, data_root: Path | None) -> AnnotatedBatches:
    """The data of a configuration, ready for training on `device`.

    Images that take at most `MEMORY` together are decoded once; those of larger data sets in
    worker processes (`decoders`). Where all test images have one size, `EVALUATION_BATCH` of them
    make a batch, else one, which nothing pads. For a detector without masks none are decoded.

    Raises:
        DataError: the data set is missing or damaged.
        ValueError: it has fewer images than the configuration trains on and holds out.
    """
    images = read(config, data_root)
    if not _has_masks(config):
        train, test = (replace(split, masks=False) for split in (images.train, images.test))
        images = replace(images, train=train, test=test)
    sizes = [_resized(image, images) for image in (*images.train.images, *images.test.images)]
    in_memory = 3 * sum(height * width for height, width in sizes) <= MEMORY
    one_size = len(set(sizes[len(images.train.images) :])) == 1
    return AnnotatedBatches(
        images,
        test_batch=EVALUATION_BATCH if one_size else 1,
        processes=0 if in_memory else decoders(),
        device=device,
        in_memory=in_memory,
        max_unreadable=config.max_unreadable,
    )


def read(config: DetectionConfig, data_root: Path | None) -> DetectionSet:
    """The data set of a configuration, none of its images decoded; errors as in `load`."""
    images = datasets.load_detection(config.data, data_root).hold_out(config.validation_images)
    images = images.sample_train(config.train_images)
    if config.short_side is not None:
        images = replace(images, short_side=config.short_side)
    if config.long_side is not None:
        images = replace(images, long_side=config.long_side)
    return images


def _resized(image: AnnotatedImage, data: DetectionSet) -> tuple[int, int]:
    return Size(data.short_side, data.long_side).of(image.height, image.width)


def canvas_of(data: DetectionSet) -> int:
    """The usual short side of the training images in pixels, which sizes of anchors follow."""
    return round(median(min(_resized(image, data)) for image in data.train.images))


def build(config: DetectionConfig, data: AnnotatedBatches, device: str) -> nn.Module:
    """The detector of a configuration with its first weights, for the categories of the data."""
    return detector.build(config, _built_for(data.data), device)


def built_for(config: DetectionConfig, data: AnnotatedBatches) -> dict[str, Any]:
    """Categories, sizes, and the mean and standard deviation of pixels: see `BuiltFor`."""
    return asdict(_built_for(data.data))


def _built_for(data: DetectionSet) -> BuiltFor:
    canvas = canvas_of(data)
    return BuiltFor(
        categories=list(data.categories.names),
        canvas=canvas,
        short_side=data.short_side or canvas,
        long_side=data.long_side,
        image_mean=list(data.image_mean),
        image_std=list(data.image_std),
    )


def make_task(
    config: DetectionConfig, data: AnnotatedBatches, model: nn.Module, processes: Processes
) -> Detection:
    """Detection, with recomputed statistics where a norm has running ones."""
    recompute = _recomputed if running_statistics(model) else None
    return Detection(config, data, recompute, processes, masks=_has_masks(config))


def _recomputed(model: nn.Module, parts: Iterator[Any]) -> AbstractContextManager[None]:
    """`recomputed_statistics` over what the passes of a training take."""
    return recomputed_statistics(model, parts, lambda model, inputs: model(*inputs))


def _has_masks(config: DetectionConfig) -> bool:
    return "mask_rcnn" in architecture_of(config.model).family


def notes(config: DetectionConfig, data: AnnotatedBatches) -> list[str]:
    """What stays random, because it is frozen and no other run's weights are loaded into it."""
    if config.freeze_at and config.init is None:
        return [
            f"freeze_at={config.freeze_at} without init: frozen parts of the backbone keep their "
            "random first weights"
        ]
    return []


def warm_start(config: DetectionConfig, model: nn.Module, other: Mapping[str, Any]) -> WarmStart:
    """From a classifier the stages of the backbone; pyramid and heads keep their first weights.

    The classifier's last layer is left out. Frozen batch norm takes gamma, beta and the running
    statistics of its batch norm. From a detector all weights, but those of single classes only if
    the data set is the same.

    Raises:
        WarmStartError: a classifier of another architecture than the backbone's, or a run with
            another norm (`check_norm`).
    """
    if other.get("task") == config.task:
        check_norms(config, other)
        of_classes = () if other["data"] == config.data else _OF_CLASSES
        return WarmStart(
            rename=lambda key: None if key.startswith(of_classes) else key, fresh=of_classes
        )
    body = architecture_of(config.model).body
    if other["model"] != body:
        raise WarmStartError(f"they are of {other['model']}, its backbone is {body}")
    check_norm(config.norms.get("backbone", config.norm), NormSpec.parse(other["norm"]))
    in_head = {name for name, _ in model.named_modules() if name.startswith(_C4_STAGE)}

    def rename(key: str) -> str | None:
        part = key.partition(".")[0]
        if part == "fc":
            return None
        return f"{_C4_STAGE if f'{_C4_STAGE}{part}' in in_head else _BODY}{key}"

    taken = (_BODY, f"{_C4_STAGE}layer")
    fresh = [key for key in model.state_dict() if not key.startswith(taken)]
    return WarmStart(rename=rename, fresh=fresh)


def samples(config: DetectionConfig, data_root: Path | None, count: int) -> SampledScenes:
    """The first test images that can be decoded, with their objects."""
    return SampledScenes(config, read(config, data_root), count)


def first_step(
    config: DetectionConfig, data: AnnotatedBatches, model: nn.Module, processes: Processes = ALONE
) -> TimedStep:
    """The first images of the training, as many as a pass of one process sees."""
    workers = config.workers // (processes.count * config.accumulate)
    count = workers * config.batch_per_worker
    step = Step(config.seed, torch.arange(count) % data.train_size)
    images, targets = next(iter(data.train([step])))
    height, width = (max(image.shape[side] for image in images) for side in (1, 2))

    def padded(values: Tensor) -> Tensor:
        return F.pad(values, (0, width - values.shape[2], 0, height - values.shape[1]))

    wanted = [
        {"boxes": one["boxes"], "labels": one["labels"], "masks": padded(one["masks"])}
        for one in targets
    ]
    batch = torch.stack([padded(image) for image in images])
    return TimedStep(_SummedLosses(model, wanted, workers), batch, config.precision)


class _SummedLosses(nn.Module):
    """A detector that makes of images alone the sum of its losses, with the same draws each time.

    Args:
        targets: one for each image.
        workers: whose images they are.
    """

    def __init__(self, model: nn.Module, targets: list[dict[str, Tensor]], workers: int) -> None:
        super().__init__()
        self.model, self.targets, self.workers = model, targets, workers

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> a scalar."""
        generators = [generator_of("first step", worker) for worker in range(self.workers)]
        losses: Mapping[str, Tensor] = self.model(list(images), self.targets, generators)
        return torch.stack([loss.float() for loss in losses.values()]).sum()
