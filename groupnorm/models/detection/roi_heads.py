"""Heads on regions, whose regions, losses and batch statistics belong to workers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import (
    RoIHeads,
    maskrcnn_inference,
    project_masks_on_boxes,
)

from groupnorm.layers import rows_per_worker
from groupnorm.models.detection.architectures import RegionSizes
from groupnorm.models.detection.inputs import Target
from groupnorm.models.detection.rpn import BETA
from groupnorm.models.detection.workers import (
    mean_weights,
    rows_of_workers,
    sample_balanced,
    split_workers,
)

SCORE_THRESHOLD = 0.05
"""Detections below it are left out, before any average precision, as in Detectron."""


class RegionHeads(RoIHeads):  # type: ignore[misc]
    """torchvision's heads for boxes and masks; the constants are Detectron's.

    In training, heads run within `rows_per_worker`: the norms of box and mask head get the regions
    of all images, of which each worker's images have another number.

    Args:
        regions: numbers.
        box_pooling: (maps, boxes, image sizes) -> features of regions.
        box_head: and `box_predictor`: features -> scores and box deltas.
        mask_head: on the output of `mask_pooling`. Without pooling of its own the mask predictor
            gets the box head's output, as Mask R-CNN C4 has it.
        mask_predictor: -> logits of masks.
    """

    def __init__(
        self,
        regions: RegionSizes,
        *,
        box_pooling: nn.Module,
        box_head: nn.Module,
        box_predictor: nn.Module,
        mask_pooling: nn.Module | None,
        mask_head: nn.Module | None,
        mask_predictor: nn.Module,
    ) -> None:
        super().__init__(
            box_pooling,
            box_head,
            box_predictor,
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=regions.sampled_regions,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=SCORE_THRESHOLD,
            nms_thresh=0.5,
            detections_per_img=regions.detections,
            mask_roi_pool=mask_pooling,
            mask_head=mask_head,
            mask_predictor=mask_predictor,
        )

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: Sequence[Target] = (),
        generators: Sequence[torch.Generator] = (),
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Detections of each image, or in training the losses, means over the workers.

        Args:
            generators: one for each worker, which its regions are sampled with.
        """
        if self.training:
            return [], self._losses(features, proposals, image_shapes, targets, generators)
        pooled = self.box_roi_pool(features, proposals, image_shapes)
        scores, deltas = self.box_predictor(self.box_head(pooled))
        found = self.postprocess_detections(scores, deltas, proposals, image_shapes)
        boxes, scores, labels = found
        logits = self._mask_logits(features, boxes, image_shapes)
        masks = maskrcnn_inference(logits, labels)
        names = ("boxes", "scores", "labels", "masks")
        return [
            dict(zip(names, one, strict=True))
            for one in zip(boxes, scores, labels, masks, strict=True)
        ], {}

    def _mask_logits(
        self, features: dict[str, Tensor], boxes: list[Tensor], sizes: list[tuple[int, int]]
    ) -> Tensor:
        if self.mask_roi_pool is None:
            of_regions = self.box_head(self.box_roi_pool(features, boxes, sizes))
        else:
            of_regions = self.mask_head(self.mask_roi_pool(features, boxes, sizes))
        logits: Tensor = self.mask_predictor(of_regions)
        return logits

    def _losses(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        sizes: list[tuple[int, int]],
        targets: Sequence[Target],
        generators: Sequence[torch.Generator],
    ) -> dict[str, Tensor]:
        workers = len(generators)
        proposals, matched, labels, wanted = self._sample(proposals, targets, generators)
        pooled = self.box_roi_pool(features, proposals, sizes)
        with _whose(proposals, workers):
            of_regions = self.box_head(pooled)
        scores, deltas = self.box_predictor(of_regions)
        losses = _box_losses(scores, deltas, labels, wanted, workers)

        positives = [torch.where(of_image > 0)[0] for of_image in labels]
        boxes = [boxes[rows] for boxes, rows in zip(proposals, positives, strict=True)]
        matched = [found[rows] for found, rows in zip(matched, positives, strict=True)]
        if self.mask_roi_pool is None:
            logits = self.mask_predictor(of_regions[torch.cat(labels) > 0])
        else:
            pooled = self.mask_roi_pool(features, boxes, sizes)
            with _whose(boxes, workers):
                of_regions = self.mask_head(pooled)
            logits = self.mask_predictor(of_regions)
        return {**losses, "loss_mask": _mask_loss(logits, boxes, targets, matched, workers)}

    def _sample(
        self,
        proposals: list[Tensor],
        targets: Sequence[Target],
        generators: Sequence[torch.Generator],
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor]:
        """Regions of each image, the targets they match, their labels, and their box deltas."""
        truth = [target["boxes"].to(proposals[0].dtype) for target in targets]
        proposals = self.add_gt_proposals(proposals, truth)
        matched, labels = self.assign_targets_to_proposals(
            proposals, truth, [target["labels"] for target in targets]
        )
        sampler = self.fg_bg_sampler
        rows = [
            torch.cat(
                sample_balanced(
                    of_image, sampler.batch_size_per_image, sampler.positive_fraction, generator
                )
            )
            for mine, generator in zip(
                split_workers(labels, len(generators)), generators, strict=True
            )
            for of_image in mine
        ]
        proposals, matched, labels = (
            [one[chosen] for one, chosen in zip(of_images, rows, strict=True)]
            for of_images in (proposals, matched, labels)
        )
        boxes = [
            of_image[found] if len(of_image) else torch.zeros_like(regions)
            for of_image, found, regions in zip(truth, matched, proposals, strict=True)
        ]
        return proposals, matched, labels, torch.cat(self.box_coder.encode(boxes, proposals))


def _whose(of_images: list[Tensor], workers: int) -> AbstractContextManager[None]:
    return rows_per_worker(rows_of_workers(of_images, workers))


def _box_losses(
    scores: Tensor, deltas: Tensor, labels: list[Tensor], wanted: Tensor, workers: int
) -> dict[str, Tensor]:
    weights = mean_weights(rows_of_workers(labels, workers), deltas)
    of_all = torch.cat(labels)
    of_rows = F.cross_entropy(scores, of_all, reduction="none")
    positive = torch.where(of_all > 0)[0]
    of_class = deltas.view(len(deltas), -1, 4)[positive, of_all[positive]]
    boxes = F.smooth_l1_loss(of_class, wanted[positive], beta=BETA, reduction="none")
    return {
        "loss_classifier": (of_rows * weights).sum(),
        "loss_box_reg": (boxes.sum(1) * weights[positive]).sum(),
    }


def _mask_loss(
    logits: Tensor,
    boxes: list[Tensor],
    targets: Sequence[Target],
    matched: list[Tensor],
    workers: int,
) -> Tensor:
    labels = torch.cat(
        [target["labels"][found] for target, found in zip(targets, matched, strict=True)]
    )
    side = logits.shape[-1]
    wanted = torch.cat(
        [
            project_masks_on_boxes(target["masks"], regions, found, side)
            for target, regions, found in zip(targets, boxes, matched, strict=True)
        ]
    )
    of_class = logits[torch.arange(len(labels), device=labels.device), labels]
    of_rows = F.binary_cross_entropy_with_logits(of_class, wanted, reduction="none").mean((1, 2))
    weights = mean_weights(rows_of_workers(boxes, workers), logits)
    return (of_rows * weights).sum()
