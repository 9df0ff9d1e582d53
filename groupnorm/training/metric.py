"""What a run measures, as values: every record names its metrics, and the first is reported.

Standard library only, so that a study can be planned, and its records be read, without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

PRECISE = "precise_"
TRAINING = "train_"


@dataclass(frozen=True)
class Metric:
    """A number that a run has after an epoch: how to find, to print and to compare it.

    Attributes:
        name: its key in the rows of `metrics.jsonl`. One that begins with ``train_`` is of the
            training examples, any other of the validation or test examples.
        unit: as printed behind the number, such as "%"; "" for a number without one.
        better: which of two values is the better one.
        title: what readers see, without the unit and in the middle of a sentence: "top-1 error".
    """

    name: str
    unit: str
    better: Literal["lower", "higher"]
    title: str

    @property
    def precise(self) -> str:
        """The key of the same metric with batch norm's statistics recomputed (Precise-BN).

        Rows hold it, None or a number, where the task recomputes statistics at all.
        """
        return PRECISE + self.name

    @property
    def of_training(self) -> bool:
        """Whether it is of the training examples."""
        return self.name.startswith(TRAINING)


TRAIN_LOSS = Metric("train_loss", "", "lower", "training loss")
"""The sum of a task's losses, which every run has."""

CLASSIFICATION: tuple[Metric, ...] = (
    Metric("val_error", "%", "lower", "top-1 error"),
    Metric("train_error", "%", "lower", "training error"),
    Metric("val_loss", "", "lower", "loss"),
    TRAIN_LOSS,
)
"""Of image classifiers, the reported one first; also of records that name no metrics, which are
older than other tasks."""

_AP = tuple(
    Metric(f"{kind}_ap{key}", "%", "higher", f"{kind} AP{title}")
    for kind in ("box", "mask")
    for key, title in {
        "": "", "50": "50", "75": "75", "_small": " of small objects",
        "_medium": " of medium objects", "_large": " of large objects",
    }.items()
)  # fmt: skip
AT_THRESHOLD: tuple[Metric, ...] = (
    Metric("recall", "%", "higher", "recall of boxes"),
    Metric("precision", "%", "higher", "precision of boxes"),
)
"""On one half of the test images, at the score threshold that is best on the other half."""
_NOT_AP = (*AT_THRESHOLD, TRAIN_LOSS)
BOX_DETECTION: tuple[Metric, ...] = (*(m for m in _AP if m.name.startswith("box")), *_NOT_AP)
"""COCO's average precision of detectors without masks, the reported one first."""
MASK_DETECTION: tuple[Metric, ...] = (*_AP, *_NOT_AP)
"""Of detectors with masks."""

SEGMENTATION: tuple[Metric, ...] = (
    Metric("val_mean_iou", "%", "higher", "mean IoU"),
    Metric("val_pixel_accuracy", "%", "higher", "pixel accuracy"),
    Metric("train_pixel_accuracy", "%", "higher", "training pixel accuracy"),
    Metric("val_loss", "", "lower", "loss"),
    TRAIN_LOSS,
)
"""Of networks that label every pixel, the reported one first."""

VIDEO: tuple[Metric, ...] = (
    Metric("val_accuracy", "%", "higher", "top-1 accuracy"),
    Metric("val_accuracy_top5", "%", "higher", "top-5 accuracy"),
    Metric("one_clip_accuracy", "%", "higher", "top-1 accuracy of one clip"),
    Metric("one_clip_accuracy_top5", "%", "higher", "top-5 accuracy of one clip"),
    Metric("train_accuracy", "%", "higher", "training accuracy"),
    Metric("val_loss", "", "lower", "loss"),
    TRAIN_LOSS,
)
"""Of video classifiers, the reported one first. Those of the test are over the average softmax of
all clips of a video, but where they name one clip."""


PARTS = "ap_folds"
CURVES = "precision_at_recall"
"""Keys of the rows of a detector's `metrics.jsonl` in reported epochs: by the name of a metric its
values on parts of the test images, and the curve that it is the mean of."""


def metrics_of(env: Mapping[str, Any]) -> tuple[Metric, ...]:
    """The metrics that a record's `env.json` names, the reported one first."""
    named = env.get("metrics")
    return CLASSIFICATION if named is None else tuple(Metric(**metric) for metric in named)
