"""How an image classifier is set up; the functions are those of `Setup`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from groupnorm import data as datasets
from groupnorm import models
from groupnorm.conversion import recomputed_statistics
from groupnorm.cost.timing import Step as TimedStep
from groupnorm.data import Batches
from groupnorm.run.setup import built, check_held_out, decoders, labelled_step, without_last_layer
from groupnorm.training.config import RunConfig
from groupnorm.training.config.classification import IMAGE_SIZE
from groupnorm.training.distributed import ALONE, Processes
from groupnorm.training.evaluation.probe import probe_module
from groupnorm.training.memory_format import in_memory_format
from groupnorm.training.tasks.classification import Classification
from groupnorm.training.warm_start import WarmStart, check_norms

SAMPLED = None  # what a classifier predicts is not recorded
EVALUATION_BATCH = 64


def load(config: RunConfig, device: str, data_root: Path | None) -> Batches:
    """The data of a configuration, ready for training on `device`.

    Image files are decoded in worker processes (`decoders`).

    Raises:
        DataError: the data set is missing or damaged.
        ValueError: it has fewer images than the configuration trains on and holds out.
    """
    images = datasets.load(config.data, data_root)
    check_held_out(config, images.train_size)
    images = images.hold_out(config.validation_images)
    if isinstance(images, datasets.ImageSet):
        return datasets.InMemory(images, config.train_images, device)
    from groupnorm.data.files.batches import FromFiles  # which needs torchvision and pillow

    return FromFiles(
        images.sample_train(config.train_images),
        config.image_size or IMAGE_SIZE,
        EVALUATION_BATCH,
        decoders(),
        device,
        config.max_unreadable,
    )


def build(config: RunConfig, data: Batches, device: str) -> nn.Module:
    """The network of a configuration with its first weights, for the classes of the data."""
    return built(
        config,
        device,
        lambda norm, of_places: models.build_model(
            config.model,
            norm=norm,
            norms=of_places,
            num_classes=data.num_classes,
            in_channels=data.channels,
            width=config.width,
            shortcut=config.shortcut,
            zero_gamma=config.zero_gamma,
        ),
    )


def built_for(config: RunConfig, data: Batches) -> None:
    """Nothing: a classifier is used with its data set."""


def make_task(
    config: RunConfig, data: Batches, model: nn.Module, processes: Processes
) -> Classification:
    """Classification, with recomputed statistics where a norm has running ones."""
    recompute = recomputed_statistics if config.uses_batch_statistics else None
    return Classification(config, data, recompute, processes, probe_module(config.model, model))


def notes(config: RunConfig, data: Batches) -> list[str]:
    """What of a size schedule does nothing, because it would not make the images smaller."""
    own = data.image_size
    idle = [str(size) for size, _ in config.size_schedule if size >= own]
    if not idle:
        return []
    return [
        f"size_schedule: images have {own} pixels, so that {' and '.join(idle)} pixels leave them "
        "as they are"
    ]


def warm_start(config: RunConfig, model: nn.Module, other: Mapping[str, Any]) -> WarmStart:
    """All weights are taken; those of the last linear layer only if the data set is the same.

    Raises:
        WarmStartError: a run with another norm (`check_norms`).
    """
    check_norms(config, other)
    return WarmStart() if other["data"] == config.data else without_last_layer(model)


def first_step(
    config: RunConfig, data: Batches, model: nn.Module, processes: Processes = ALONE
) -> TimedStep:
    """The first images of the training, as many as a pass of one process sees."""
    return labelled_step(
        config,
        data,
        model,
        processes,
        lambda images: in_memory_format(images, config.memory_format),
    )
