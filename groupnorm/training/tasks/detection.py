"""The detection task: losses and sampling per worker, COCO's average precision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from groupnorm.data.batches import Step, epoch_steps, generator_of
from groupnorm.data.detection.batches import AnnotatedBatches
from groupnorm.data.detection.targets import DetectionBatch
from groupnorm.training.config import DetectionConfig
from groupnorm.training.distributed import ALONE, Processes
from groupnorm.training.evaluation.coco import (
    FOLDS,
    CocoAp,
    CocoTruth,
    Detections,
    finite,
    to_original,
)
from groupnorm.training.evaluation.threshold import AtThreshold, at_chosen_threshold
from groupnorm.training.metric import (
    BOX_DETECTION,
    CURVES,
    MASK_DETECTION,
    PARTS,
    PRECISE,
    Metric,
)
from groupnorm.training.task import EpochTotals, Metrics, Part, RecomputeStatistics, whole_steps

PRECISE_IMAGES = 512
_STATISTICS_EPOCH = 0  # epochs count from 1: images of its own


class Detection:
    """Batches, losses and evaluation of a detector.

    A batch is a list of images and a list of their targets (`DetectionBatch`), and a pass's part is
    those of some workers with a generator for each. The images of a worker follow each other. A
    worker's anchors and regions are drawn with its own generator, which is seeded by the run's
    seed, the step and the worker's number over all processes: neither processes nor passes nor a
    resumed run change what is drawn. The model averages each loss per worker, so that the mean over
    passes and processes of whole workers is the mean over all workers.

    Test metrics, in percent: box_ap, box_ap50, box_ap75, box_ap_small, box_ap_medium and
    box_ap_large, with running statistics, and the same of masks where the model has them
    (`CocoTruth.ap`); a detector that finds nothing has 0, and None stands where no object is to be
    found. Also `recall` and `precision` of boxes on every second test image, at the
    `score_threshold` that is the best one on the others (`at_chosen_threshold`). In the reported
    epochs also `ap_folds`, by metric the values on `FOLDS` parts of the test images, which are the
    same parts for every model, and `precision_at_recall`, by metric the curve that its average
    precision is the mean of (`CocoAp.curves`); and for each metric its value with
    batch norm's statistics recomputed over `PRECISE_IMAGES` augmented training images under fixed
    weights (Precise-BN; Wu & Johnson, arXiv 2105.07576), such as `precise_box_ap`: None for models
    without running statistics, and before. `not_finite` counts detections with a score or a corner
    that is not a number; they are left out, and where there is none there is no such entry.

    Args:
        data: images with objects.
        recompute: the context manager that recomputes statistics over the inputs of parts; None
            when no layer has any.
        masks: whether the model has masks.

    Raises:
        ValueError: fewer training images than images in a step.
        DataError: faster-coco-eval is not installed, or a mask cannot be drawn.
    """

    def __init__(
        self,
        config: DetectionConfig,
        data: AnnotatedBatches,
        recompute: RecomputeStatistics | None,
        processes: Processes = ALONE,
        *,
        masks: bool,
    ) -> None:
        self.config = config
        self.data = data
        self.recompute = recompute
        self.processes = processes
        self.metrics: tuple[Metric, ...] = MASK_DETECTION if masks else BOX_DETECTION
        self.steps_per_epoch = whole_steps(config, len(self._order(1)))
        test = data.data.test
        self.truth = CocoTruth(
            test if masks else replace(test, masks=False), data.categories, data.data.area_sides
        )

    def _order(self, epoch: int) -> Tensor:
        return self.data.order(self.config.seed, epoch, self.config.batch_per_worker)

    def steps(self, epoch: int) -> list[Step]:
        """The steps of an epoch: all images in an order of its own, each worker's of one
        orientation, the incomplete step dropped."""
        return epoch_steps(self._order(epoch), self.config.step_images, self.config.seed, epoch)

    def split(self, batch: DetectionBatch, step: Step, progress: float) -> Sequence[Part]:
        """Images, targets and generators of whole workers, for each pass."""
        size = self.config.batch_per_worker
        workers = len(batch.images) // size
        first = self.processes.rank * workers
        return self._parts(batch, step, first, self.config.accumulate)

    def _parts(self, batch: DetectionBatch, step: Step, first: int, passes: int) -> list[Part]:
        """The batch of the workers from `first` on, in equal parts."""
        images, size = len(batch.images) // passes, self.config.batch_per_worker
        parts = []
        for begin in range(0, len(batch.images), images):
            number = first + begin // size
            generators = [
                generator_of(step.seed, "worker", worker)
                for worker in range(number, number + images // size)
            ]
            chosen = slice(begin, begin + images)
            parts.append(Part((batch.images[chosen], batch.targets[chosen], generators), images))
        return parts

    def losses(self, model: nn.Module, part: Part) -> tuple[dict[str, Tensor], dict[str, int]]:
        """The model's losses by name; nothing is counted."""
        images, targets, generators = part.inputs
        with self._autocast(images[0]):
            losses: Mapping[str, Tensor] = model(images, targets, generators)
        if self._half:
            losses = {name: loss.float() for name, loss in losses.items()}
        return dict(losses), {}

    def training_metrics(self, totals: EpochTotals) -> Metrics:
        """Nothing besides the losses."""
        return {}

    @torch.no_grad()
    def evaluate(self, model: nn.Module, *, reported: bool) -> Metrics:
        """Average precision on the test images, over all processes."""
        found = self._test(model, FOLDS if reported else 0)
        metrics: Metrics = {**found.metrics, "score_threshold": found.at_threshold.score_threshold}
        not_finite = found.not_finite
        if reported:
            metrics[PARTS] = found.ap.folds
            metrics[CURVES] = found.ap.curves
        precise: Mapping[str, float | None] = dict.fromkeys(found.metrics)
        if reported and self.recompute is not None:
            image = next(model.parameters())
            with (
                self._autocast(image),
                self.recompute(model, self._parts_for_statistics()),
            ):
                recomputed = self._test(model, 0)
            precise = recomputed.metrics
            not_finite += recomputed.not_finite
        metrics |= {PRECISE + name: value for name, value in precise.items()}
        return metrics | ({"not_finite": not_finite} if not_finite else {})

    def _autocast(self, like: Tensor) -> torch.autocast:
        return torch.autocast(like.device.type, torch.bfloat16, enabled=self._half)

    @property
    def _half(self) -> bool:
        return self.config.precision == "bfloat16"

    def _test(self, model: nn.Module, folds: int) -> _Tested:
        detections, not_finite = [], 0
        model.eval()
        for images, targets in self.data.test(self.processes.rank, self.processes.count):
            with self._autocast(images[0]):
                outputs = model(images)
            for output, image, target in zip(outputs, images, targets, strict=True):
                kept, others = finite(output)
                not_finite += others
                number, size = target["image_id"], target["original_size"]
                found = to_original(kept, image, image_id=number, original_size=size)
                detections.append(found)
        model.train()
        gathered = self.processes.all_gather((detections, not_finite))
        tested = None
        if self.processes.first:
            every: list[Detections] = [one for found, _ in gathered for one in found]
            tested = _Tested(
                self.truth.ap(every, folds),
                at_chosen_threshold(self.truth.split, every),
                sum(number for _, number in gathered),
            )
        tested = self.processes.broadcast_from_rank0(tested)
        assert tested is not None
        return tested

    def _parts_for_statistics(self) -> Iterator[Any]:
        """Every process goes through all of them, as large as a pass of its training.

        Synchronized statistics belong to the whole step, which makes one batch.
        """
        config = self.config
        order = self._order(_STATISTICS_EPOCH)[: max(PRECISE_IMAGES, config.step_images)]
        steps = epoch_steps(order, config.step_images, config.seed, _STATISTICS_EPOCH)
        parts = 1 if config.synchronized else self.processes.count * config.accumulate
        for step, batch in zip(steps, self.data.train(steps), strict=True):
            yield from (part.inputs for part in self._parts(batch, step, 0, parts))


@dataclass(frozen=True)
class _Tested:
    """What the test images say of a model; `not_finite` counts detections that were left out."""

    ap: CocoAp
    at_threshold: AtThreshold
    not_finite: int

    @property
    def metrics(self) -> dict[str, float | None]:
        at = self.at_threshold
        return {**self.ap.metrics, "recall": at.recall, "precision": at.precision}
