"""COCO's average precision of boxes and masks, in percent, by faster-coco-eval.

Lin et al., Microsoft COCO, ECCV 2014; https://cocodataset.org/#detection-eval. Annotations and
images are numbered anew from 1 for the evaluator, whatever their ids are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from groupnorm.data import DataError
from groupnorm.data.detection import rle
from groupnorm.data.detection.annotations import COCO_AREAS, Split
from groupnorm.data.detection.examples import draw_mask
from groupnorm.data.detection.rle import Runs
from groupnorm.data.detection.targets import Categories

FOLDS = 10
MOST_DETECTIONS = 100  # of an image
_KINDS = {"box": "bbox", "mask": "segm"}
_INSTALL = "COCO's AP needs faster-coco-eval; install it with: pip install 'groupnorm[detection]'"


@dataclass(frozen=True, eq=False)
class Detections:
    """What a model found in one image, in pixels of the image's file.

    Attributes:
        image_id: as in the annotation file.
        boxes: float64 (n, 4), x0 y0 x1 y1.
        labels: int64 (n,), 1 to K.
        scores: float64 (n,).
        masks: runs of each mask (see `groupnorm.data.detection.rle`); None of a model without.

    Raises:
        ValueError: a score or a coordinate that is not finite.
    """

    image_id: int
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    masks: tuple[Runs, ...] | None = None

    def __post_init__(self) -> None:
        for what, values in (("scores", self.scores), ("boxes", self.boxes)):
            if not np.isfinite(values).all():
                raise ValueError(f"image {self.image_id}: the {what} of detections are not finite")


def finite(output: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], int]:
    """A detector's output without scores and boxes that are not finite, and how many those are."""
    kept = output["boxes"].isfinite().all(1) & output["scores"].isfinite()
    return {name: values[kept] for name, values in output.items()}, int((~kept).sum())


def to_original(
    output: Mapping[str, Tensor], image: Tensor, *, image_id: int, original_size: tuple[int, int]
) -> Detections:
    """What one of torchvision's detectors says of an image, in the size of the image's file.

    Args:
        output: boxes (n, 4), labels (n,) from 1, scores (n,), and perhaps masks, probabilities
            (n, 1, h, w): in pixels of `image`.
        image: the image as the model got it, (3, h, w).
        image_id: as in the annotation file.
        original_size: height and width of the image's file.

    Raises:
        ValueError: a score or a coordinate that is not finite.
    """
    height, width = original_size
    scale_y, scale_x = height / image.shape[1], width / image.shape[2]
    boxes = output["boxes"].detach().double().cpu().numpy()
    masks = None
    if "masks" in output:
        masks = tuple(
            rle.encode(_resized(mask, height, width).cpu().numpy() >= 0.5)
            for mask in output["masks"].detach().float()
        )
    return Detections(
        image_id=image_id,
        boxes=boxes * np.array([scale_x, scale_y, scale_x, scale_y]),
        labels=output["labels"].detach().cpu().numpy().astype(np.int64),
        scores=output["scores"].detach().double().cpu().numpy(),
        masks=masks,
    )


class CocoTruth:
    """The annotations of the test images, ready for the evaluator.

    Args:
        split: the test images. The masks of all annotations are drawn once, here.
        categories: of the data set.
        area_sides: the sides of the squares between small, medium and large objects.

    Raises:
        DataError: faster-coco-eval is not installed, or a mask cannot be drawn.
    """

    def __init__(
        self, split: Split, categories: Categories, area_sides: tuple[int, int] = COCO_AREAS
    ) -> None:
        try:
            from faster_coco_eval import COCO
        except ImportError:
            raise DataError(_INSTALL) from None
        self.split, self.categories, self.area_sides = split, categories, area_sides
        self.kinds = ("box", "mask") if split.masks else ("box",)
        # The order of the ids, in which the evaluator takes images of equal scores.
        self.images = sorted(split.images, key=lambda image: image.id)
        self.sizes = [(image.height, image.width) for image in self.images]
        self.number = {image.id: number for number, image in enumerate(self.images, 1)}
        data = {
            "images": [
                {"id": number, "height": height, "width": width}
                for number, (height, width) in enumerate(self.sizes, 1)
            ],
            "categories": [{"id": label} for label in range(1, len(categories) + 1)],
            "annotations": list(self._annotations()),
        }
        self.truth = COCO(data)

    def ap(self, detections: Sequence[Detections], folds: int = FOLDS) -> CocoAp:
        """The average precision over the images of `detections`, which has one entry for each.

        Images without an entry are not evaluated. At most `MOST_DETECTIONS` count of each image.

        Args:
            folds: so many parts of the images have an AP each. An image's part follows from its
                place in the data set, so that the parts of two models are the same.

        Raises:
            ValueError: an image that is not in the data set or has two entries, a label that is
                not 1 to K, or a mask of another size.
        """
        numbers = self._numbers(detections)
        metrics: dict[str, float | None] = {}
        by_fold: dict[str, list[float | None]] = {}
        curves: dict[str, list[float | None]] = {}
        for kind in self.kinds:
            found = self.truth.loadRes(list(self._results(kind, detections, numbers)))
            names = [f"{kind}_ap{suffix}" for suffix in _SUFFIXES]
            precision = self._precision(kind, found, numbers)
            metrics |= dict(zip(names, _averages(precision), strict=True))
            curves |= {f"{kind}_ap{suffix}": _curve(precision, suffix) for suffix in _IOUS}
            parts = [[n for n in numbers if n % folds == fold] for fold in range(folds)]
            each = [_averages(self._precision(kind, found, part)) for part in parts]
            by_fold |= {name: [part[i] for part in each] for i, name in enumerate(names)}
        return CocoAp(metrics, by_fold, curves)

    def _numbers(self, detections: Sequence[Detections]) -> list[int]:
        numbers = []
        for found in detections:
            number = self.number.get(found.image_id)
            if number is None:
                raise ValueError(f"{self.split.file} has no image {found.image_id}")
            numbers.append(number)
            for label in set(found.labels.tolist()):
                self.categories.id(label)  # raises
        if len(set(numbers)) < len(numbers):
            raise ValueError("an image has detections twice")
        return numbers

    def _annotations(self) -> Any:
        """The evaluator's annotations, numbered from 1; those with an empty mask are left out."""
        number = 0
        for image_number, image in enumerate(self.images, 1):
            for annotation in image.annotations:
                entry = {
                    "id": number + 1,
                    "image_id": image_number,
                    "category_id": annotation.label,
                    "bbox": list(annotation.box),
                    "area": annotation.area_in(image.height, image.width),
                    "iscrowd": int(annotation.crowd),
                }
                if self.split.masks:
                    mask = draw_mask(self.split, image, annotation)
                    if not mask.any():
                        continue
                    entry["segmentation"] = rle.to_json(rle.encode(mask), *mask.shape)
                number += 1
                yield entry

    def _results(self, kind: str, detections: Sequence[Detections], numbers: Sequence[int]) -> Any:
        """Detections as the evaluator reads them, of boxes or of masks."""
        for found, number in zip(detections, numbers, strict=True):
            for i, (label, score) in enumerate(
                zip(found.labels.tolist(), found.scores.tolist(), strict=True)
            ):
                entry = {"image_id": number, "category_id": label, "score": score}
                if kind == "box":
                    x0, y0, x1, y1 = found.boxes[i].tolist()
                    yield {**entry, "bbox": [x0, y0, x1 - x0, y1 - y0]}
                else:
                    height, width = self.sizes[number - 1]
                    if found.masks is None or found.masks[i].sum() != height * width:
                        raise ValueError(
                            f"image {found.image_id}: expected masks of {height} x {width} pixels"
                        )
                    mask = rle.to_json(found.masks[i], height, width)
                    yield {**entry, "segmentation": mask}

    def _precision(self, kind: str, found: Any, numbers: Sequence[int]) -> NDArray[np.float64]:
        """Precision at 10 thresholds of IoU (0.5, 0.55, ..., 0.95) and 101 of recall (0 to 1).

        Of shape (10, 101, K, 4, 1): for each category, and for objects of all, small, medium and
        large areas. The evaluator writes -1 where there is no object.
        """
        if not numbers:
            return np.full((10, 101, len(self.categories), 4, 1), -1.0)
        from faster_coco_eval import COCOeval_faster

        evaluator = COCOeval_faster(self.truth, found, _KINDS[kind], rle_iou_max_workers=1)
        small, large = (float(side**2) for side in self.area_sides)
        ranges = [[0.0, 1e10], [0.0, small], [small, large], [large, 1e10]]
        evaluator.params.areaRng = ranges
        evaluator.params.areaRngLbl = ["all", "small", "medium", "large"]
        evaluator.params.maxDets = [MOST_DETECTIONS]
        evaluator.params.imgIds = list(numbers)
        evaluator.evaluate()
        evaluator.accumulate()
        return np.asarray(evaluator.eval["precision"])


_SUFFIXES = ("", "50", "75", "_small", "_medium", "_large")
_IOUS = {"50": 0, "75": 5}  # the names of two thresholds of IoU, and their positions


@dataclass(frozen=True)
class CocoAp:
    """Average precision in percent; None where there is no object to find.

    Attributes:
        metrics: box_ap, box_ap50, box_ap75, box_ap_small, box_ap_medium, box_ap_large, and the same
            of mask_ap where the data set has masks.
        folds: the same names -> the value of each part of the images.
        curves: box_ap50, box_ap75 and the same of masks -> precision in percent at a recall of 0,
            1, ..., 100 percent, the mean over categories with three decimals. The mean of a curve
            is the metric of its name.
    """

    metrics: dict[str, float | None]
    folds: dict[str, list[float | None]]
    curves: dict[str, list[float | None]]


def _averages(precision: NDArray[np.float64]) -> list[float | None]:
    """AP, AP50, AP75, and AP of small, medium and large objects; None without an object."""
    everything = precision[:, :, :, 0]
    at_iou = [everything[index : index + 1] for index in _IOUS.values()]
    return [_mean(part) for part in (everything, *at_iou, *precision.transpose(3, 0, 1, 2, 4)[1:])]


def _curve(precision: NDArray[np.float64], iou: str) -> list[float | None]:
    """Mean precision over the categories at each recall; None without an object."""
    means = [_mean(of_categories) for of_categories in precision[_IOUS[iou], :, :, 0]]
    return [None if mean is None else round(mean, 3) for mean in means]


def _mean(precision: NDArray[np.float64]) -> float | None:
    """Mean in percent of what is defined; the evaluator writes -1 for what is not."""
    defined = precision[precision > -1]
    return 100.0 * float(defined.mean()) if defined.size else None


def _resized(mask: Tensor, height: int, width: int) -> Tensor:
    """A mask (1, h, w) as (height, width)."""
    if mask.shape[1:] == (height, width):
        return mask[0]
    return F.interpolate(mask[None], (height, width), mode="bilinear", align_corners=False)[0, 0]
