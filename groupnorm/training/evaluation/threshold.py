"""Recall and precision of detections at one score threshold, chosen on a part of the images.

The measure of the RetinaNet experiment with AffineChannel and GroupNorm in the feature pyramid
(dkhoa.dev, 2019). A detection is right when its box has an IoU of at least 0.5 with an object of
its category that no better detection has; one that lies in a crowd does not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from groupnorm.data.detection.annotations import AnnotatedImage, Annotation, Split
from groupnorm.training.evaluation.coco import Detections

IOU = 0.5
VALIDATION_PART = 2  # every second image chooses the threshold, the others are measured


class Judged(NamedTuple):
    """The detections of some images, without those that lie in a crowd, and what was to be found.

    Attributes:
        scores: float64 (n,).
        right: bool (n,).
        objects: how many there are.
    """

    scores: NDArray[np.float64]
    right: NDArray[np.bool_]
    objects: int


@dataclass(frozen=True)
class AtThreshold:
    """Recall and precision in percent of the detections with at least a score.

    Attributes:
        score_threshold: chosen on other images; None where those have no right detection.
        recall: of the objects; None where there is none.
        precision: of the detections; None where there is none.
    """

    score_threshold: float | None
    recall: float | None
    precision: float | None


def at_chosen_threshold(split: Split, detections: Sequence[Detections]) -> AtThreshold:
    """Recall and precision on every second image, at the best threshold on the other images.

    The best threshold is that of the greatest F1 score (the harmonic mean of recall and precision),
    the highest of several.

    Args:
        split: the test images.
        detections: one entry for each image that is evaluated.

    Raises:
        ValueError: an image that is not in the data set.
    """
    indices = {image.id: index for index, image in enumerate(split.images)}
    parts: list[list[Judged]] = [[], []]
    for found in detections:
        if found.image_id not in indices:
            raise ValueError(f"{split.file} has no image {found.image_id}")
        index = indices[found.image_id]
        parts[index % VALIDATION_PART > 0].append(judge(split.images[index], found))
    validation, measured = map(_joined, parts)
    threshold = best_threshold(validation)
    if threshold is None:
        return AtThreshold(None, 0.0 if measured.objects else None, None)
    kept = measured.right[measured.scores >= threshold]
    return AtThreshold(
        score_threshold=threshold,
        recall=100.0 * int(kept.sum()) / measured.objects if measured.objects else None,
        precision=100.0 * float(kept.mean()) if len(kept) else None,
    )


def best_threshold(judged: Judged) -> float | None:
    """The score from which on detections have the greatest F1; None where none is right."""
    if not judged.right.any():
        return None
    order = np.argsort(-judged.scores, kind="stable")
    scores, right = judged.scores[order], judged.right[order].cumsum()
    f1 = 2 * right / (np.arange(1, len(order) + 1) + judged.objects)
    last_of_score = np.append(scores[1:] != scores[:-1], True)
    return float(scores[np.where(last_of_score, f1, -1.0).argmax()])


def judge(image: AnnotatedImage, found: Detections) -> Judged:
    """Which detections of an image are right, the best ones first served."""
    order = np.argsort(-found.scores, kind="stable")
    crowds = [annotation for annotation in image.annotations if annotation.crowd]
    free = np.ones(len(image.objects), np.bool_)
    labels = np.array([annotation.label for annotation in image.objects], np.int64)
    overlaps = _iou(found.boxes, image.objects)
    inside = _iou(found.boxes, crowds, of_detection=True)
    crowd_labels = np.array([annotation.label for annotation in crowds], np.int64)
    kept, right = [], []
    for i in order.tolist():
        candidates = np.where(free & (labels == found.labels[i]), overlaps[i], 0.0)
        hit = bool(len(candidates)) and candidates.max() >= IOU
        if hit:
            free[candidates.argmax()] = False
        elif (inside[i][crowd_labels == found.labels[i]] >= IOU).any():
            continue
        kept.append(i)
        right.append(hit)
    return Judged(found.scores[kept], np.array(right, np.bool_), len(image.objects))


def _iou(
    boxes: NDArray[np.float64], annotations: Sequence[Annotation], of_detection: bool = False
) -> NDArray[np.float64]:
    """Overlap of boxes (n, 4) and annotations (m), (n, m).

    The intersection over the union, or over the area of the detection.
    """
    truth = np.array([annotation.box for annotation in annotations], np.float64).reshape(-1, 4)
    truth[:, 2:] += truth[:, :2]
    low = np.maximum(boxes[:, None, :2], truth[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], truth[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)[:, None]
    whole = areas + 0 * common
    if not of_detection:
        whole = areas + (truth[:, 2:] - truth[:, :2]).prod(1)[None] - common
    return np.asarray(np.divide(common, whole, out=np.zeros_like(common), where=whole > 0))


def _joined(parts: Sequence[Judged]) -> Judged:
    return Judged(
        np.concatenate([part.scores for part in parts]) if parts else np.zeros(0),
        np.concatenate([part.right for part in parts]) if parts else np.zeros(0, np.bool_),
        sum(part.objects for part in parts),
    )
