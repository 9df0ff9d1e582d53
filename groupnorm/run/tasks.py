"""The tasks by name: the one place that knows them all. No torch until a model is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from groupnorm import data, models
from groupnorm.training.config import (
    DetectionConfig,
    RunConfig,
    SegmentationConfig,
    TrainingConfig,
    VideoConfig,
)
from groupnorm.training.metric import BOX_DETECTION, CLASSIFICATION, SEGMENTATION, VIDEO, Metric

if TYPE_CHECKING:
    from groupnorm.run.setup import Setup


@dataclass(frozen=True)
class _Entry:
    """A task's configuration, what its `check` is, the module that is its `Setup`, and the metric
    that is reported of it."""

    config: type[TrainingConfig]
    check: Callable[[Any], None]
    setup: str
    metric: Metric


def _check_classification(config: RunConfig) -> None:
    data.check_images(config.data, config.image_size)
    models.check_model(config.model, config.width, [size for size, _ in config.size_schedule])
    models.check_places(config.model, config.norms)


def _check_detection(config: DetectionConfig) -> None:
    data.check_detection(config.data)
    models.check_detector(config.model, config.norms, config.box_head)


def _check_segmentation(config: SegmentationConfig) -> None:
    data.check_segmentation(config.data)
    models.check_segmentation_model(config.model, config.norms)


def _check_video(config: VideoConfig) -> None:
    data.check_videos(config.data, config.image_size, config.test_crops)
    models.check_video_model(
        config.model, config.norms, frames=config.frames, size=config.image_size
    )


_TASKS = {
    "classification": _Entry(
        RunConfig, _check_classification, "groupnorm.run.classification", CLASSIFICATION[0]
    ),
    "detection": _Entry(
        DetectionConfig, _check_detection, "groupnorm.run.detection", BOX_DETECTION[0]
    ),
    "segmentation": _Entry(
        SegmentationConfig, _check_segmentation, "groupnorm.run.segmentation", SEGMENTATION[0]
    ),
    "video": _Entry(VideoConfig, _check_video, "groupnorm.run.video", VIDEO[0]),
}
_OF_OLD = "classification"  # configurations without a task are older than other tasks


def config_class(fields: Mapping[str, Any]) -> type[TrainingConfig]:
    """The class of the configuration that has these fields, by its `task`.

    Raises:
        ValueError: unknown task.
    """
    name = fields.get("task", _OF_OLD)
    if not isinstance(name, str) or name not in _TASKS:
        raise ValueError(f"unknown task {name!r}; known: {', '.join(_TASKS)}")
    return _TASKS[name].config


def describe_fields() -> dict[str, str]:
    """Every field of every task's configuration, with what it means.

    What tasks say differently stands behind the task's name, and so does what not all of them have.
    """
    found: dict[str, dict[str, str]] = {}
    for task, entry in _TASKS.items():
        for name, field in entry.config.model_fields.items():
            found.setdefault(name, {})[task] = " ".join((field.description or "").split())
    return {name: _described(texts) for name, texts in found.items()}


def _described(texts: Mapping[str, str]) -> str:
    if len(texts) == len(_TASKS) and len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return " ".join(f"{task.capitalize()}: {text}" for task, text in texts.items())


def check(config: TrainingConfig) -> None:
    """Check what the configuration alone does not know: its model and its data.

    Raises:
        ValueError: unknown model or place of it, a size for images that have one of their own, or a
            size schedule with images too small for the model.
        DataError: unknown data set.
    """
    _TASKS[config.task].check(config)


def reported_metric(config: TrainingConfig) -> Metric:
    """The first of the metrics that the run of a configuration measures."""
    return _TASKS[config.task].metric


def setup_of(config: TrainingConfig) -> Setup:
    """What makes the model, data and task of a configuration."""
    setup: Setup = import_module(_TASKS[config.task].setup)
    return setup
