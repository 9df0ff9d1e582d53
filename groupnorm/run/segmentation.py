"""How a network that labels every pixel is set up; the functions are those of `Setup`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from groupnorm import data as datasets
from groupnorm import models
from groupnorm.conversion import FitLimits, convert, recomputed_statistics
from groupnorm.conversion.rules import MIN_CHANNELS
from groupnorm.cost.timing import Step as TimedStep
from groupnorm.data import SegmentationBatches
from groupnorm.data.batches import Step
from groupnorm.data.segmentation.memory import MapsInMemory
from groupnorm.layers import norm_modules
from groupnorm.models.segmentation.architectures import segmentation_architecture_of
from groupnorm.run.setup import built, check_held_out, labelled_step
from groupnorm.spec import NormSpec
from groupnorm.training.config import SegmentationConfig
from groupnorm.training.distributed import ALONE, Processes
from groupnorm.training.memory_format import in_memory_format
from groupnorm.training.step import running_statistics
from groupnorm.training.tasks.segmentation import Segmentation
from groupnorm.training.warm_start import WarmStart, WarmStartError, check_norm, check_norms

SAMPLED = None  # what such a network predicts is not recorded
CONVERSION_IMAGES = 128
"""Training images, without their labels, that the encoder's norms are fitted to."""
_ENCODER, _LAST_LAYER = "encoder.", "logits."
_BN = NormSpec("bn")


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
    """The network of a configuration with its first weights, for the classes of the data.

    An encoder that gets the weights of a classifier with batch norm, and is converted then, has
    batch norm itself (`init_norms=convert`).
    """
    if config.converted_part:
        config = config.model_copy(update={"norms": {**config.norms, "encoder": _BN}})
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
    """All weights of a run of the same network, but those of the last layer only if the data set is
    the same; of a classifier those of the encoder, whose norms become what `init_norms` says.

    Raises:
        WarmStartError: a run with another norm (`check_norms`), or of another network; norms that
            cannot become that.
    """
    body = segmentation_architecture_of(config.model).body
    if other["model"] == body:
        return _from_classifier(config, model, other)
    if other["model"] != config.model:
        raise WarmStartError(
            f"they are of {other['model']}, it takes those of {config.model}, or its encoder those "
            f"of {body}"
        )
    if config.init_norms != "keep":
        raise WarmStartError(
            f"init_norms={config.init_norms} goes with the weights of {body}, these are of "
            f"{config.model}"
        )
    check_norms(config, other)
    if other["data"] == config.data:
        return WarmStart()
    return WarmStart(
        rename=lambda key: None if key.startswith(_LAST_LAYER) else key, fresh=[_LAST_LAYER]
    )


def _from_classifier(
    config: SegmentationConfig, model: nn.Module, other: Mapping[str, Any]
) -> WarmStart:
    """The encoder gets a classifier's weights; all else keeps its first ones."""
    trained = {NormSpec.parse(norm) for norm in (other["norm"], *other.get("norms", {}).values())}
    for norm in sorted(trained, key=str):
        _check_becomes(config, norm)
    fresh = [key for key in model.state_dict() if not key.startswith(_ENCODER)]
    if config.init_norms == "reset":
        own = tuple(f"{name}." for name, _ in norm_modules(model) if name.startswith(_ENCODER))
        left_out = ("fc.", *own)
        fresh += own
    else:
        left_out = ("fc.",)
    return WarmStart(
        rename=lambda key: None if key.startswith(left_out) else key,
        fresh=fresh,
        finish=(lambda data: _convert(config, model, data)) if config.converted_part else None,
    )


def _check_becomes(config: SegmentationConfig, trained: NormSpec) -> None:
    """Refuse a classifier's norm that cannot become what `init_norms` says."""
    own = config.encoder_norm
    if config.init_norms == "keep":
        check_norm(own, trained)
    elif config.init_norms == "convert" and not _BN.may_take_weights_of(trained):
        raise WarmStartError(
            f"init_norms=convert converts batch norms without ws, they were trained with {trained}"
        )
    elif own.ws != trained.ws:
        raise WarmStartError(
            f"they were trained with {trained}; convolutions with {own} compute something else of "
            "the same weights"
        )


def _convert(
    config: SegmentationConfig, model: nn.Module, data: SegmentationBatches
) -> dict[str, Any]:
    """Convert the encoder's batch norms in place; the report."""
    norm, count = config.encoder_norm, min(CONVERSION_IMAGES, data.train_size)
    images, _ = next(iter(data.train([Step(config.seed, torch.arange(count))])))
    _, report = convert(
        model.get_submodule("encoder"),
        str(norm),
        # where the conversion does not choose the groups, they are as many as from scratch
        min_channels=1 if norm.has_own_groups else MIN_CHANNELS,
        data=images,
        limits=_limits(config),
        inplace=True,
        seed=config.seed,
    )
    return report.to_dict()


def _limits(config: SegmentationConfig) -> FitLimits:
    if config.init_offset_limit is None:
        return FitLimits()
    return FitLimits(offset_limit=config.init_offset_limit)


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
