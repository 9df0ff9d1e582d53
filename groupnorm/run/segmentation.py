"""How a network that labels every pixel is set up; the functions are those of `Setup`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from groupnorm import data as datasets
from groupnorm import models
from groupnorm.conversion import recomputed_statistics
from groupnorm.cost.timing import Step as TimedStep
from groupnorm.data import SegmentationBatches
from groupnorm.data.segmentation.memory import MapsInMemory
from groupnorm.run.setup import built, check_held_out, labelled_step
from groupnorm.training.config import SegmentationConfig
from groupnorm.training.distributed import ALONE, Processes
from groupnorm.training.memory_format import in_memory_format
from groupnorm.training.step import running_statistics
from groupnorm.training.tasks.segmentation import Segmentation
from groupnorm.training.warm_start import WarmStart, WarmStartError, check_norms

SAMPLED = None  # what such a network predicts is not recorded
_LAST_LAYER = "logits."


def load(config: SegmentationConfig, device: str, data_root: Path | None) -> SegmentationBatches:
    """The data of a configuration, ready for training on `device`.

    Raises:
        DataError: the data set is missing or damaged.
        ValueError: it has fewer images than the configuration trains on and holds out.
    """
    images = datasets.load_segmentation(config.data, data_root)
    check_held_out(config, images.train_size)
    return MapsInMemory(images.hold_out(config.validation_images), config.train_images, device)


def build(config: SegmentationConfig, data: SegmentationBatches, device: str) -> nn.Module:
    """The network of a configuration with its first weights, for the classes of the data."""
    return built(
        config,
        device,
        lambda norm, of_places: models.build_segmentation_model(
            config.model,
            norm=norm,
            norms=of_places,
            num_classes=len(data.class_names),
            in_channels=data.channels,
        ),
    )


def built_for(config: SegmentationConfig, data: SegmentationBatches) -> None:
    """Nothing: such a network is used with its data set."""


def make_task(
    config: SegmentationConfig, data: SegmentationBatches, model: nn.Module, processes: Processes
) -> Segmentation:
    """Segmentation, with recomputed statistics where a norm has running ones.

    Raises:
        ValueError: fewer training images than images in a step.
    """
    recompute = recomputed_statistics if running_statistics(model) else None
    return Segmentation(config, data, recompute, processes)


def notes(config: SegmentationConfig, data: SegmentationBatches) -> list[str]:
    """Which classes the images of the evaluation do not have."""
    if not data.absent:
        return []
    others = len(data.class_names) - len(data.absent)
    where = "validation" if config.validation_images else "test"
    return [
        f"no {where} pixel is of {', '.join(data.absent)}: mean IoU is that of the other {others} "
        "classes"
    ]


def warm_start(config: SegmentationConfig, model: nn.Module, other: Mapping[str, Any]) -> WarmStart:
    """All weights are taken; those of the last layer only if the data set is the same.

    Raises:
        WarmStartError: a run with another norm (`check_norms`), or of another network.
    """
    check_norms(config, other)
    if other["model"] != config.model:
        raise WarmStartError(f"they are of {other['model']}, it takes those of {config.model}")
    if other["data"] == config.data:
        return WarmStart()
    return WarmStart(lambda key: None if key.startswith(_LAST_LAYER) else key, [_LAST_LAYER])


def first_step(
    config: SegmentationConfig,
    data: SegmentationBatches,
    model: nn.Module,
    processes: Processes = ALONE,
) -> TimedStep:
    """The first images of the training, as many as a pass of one process sees."""
    return labelled_step(
        config,
        data,
        model,
        processes,
        lambda images: in_memory_format(images, config.memory_format),
    )
