"""Region proposals whose anchors are sampled, and whose losses are averaged, per worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, concat_box_prediction_layers

from groupnorm.models.detection.architectures import RegionSizes
from groupnorm.models.detection.inputs import Target
from groupnorm.models.detection.workers import mean_weights, sample_balanced, split_workers

ASPECT_RATIOS = (0.5, 1.0, 2.0)
BETA = 1 / 9
"""Where the smooth L1 loss turns from a parabola into a line, as in Detectron."""


def anchor_generator(regions: RegionSizes) -> Any:
    """Anchors of three aspect ratios for each side, on every level."""
    sizes = regions.anchor_sizes
    return AnchorGenerator(sizes, (ASPECT_RATIOS,) * len(sizes))


class RegionProposals(RegionProposalNetwork):  # type: ignore[misc]
    """torchvision's region proposal network; the constants are Detectron's.

    Args:
        head: gives objectness and box deltas of every anchor.
        regions: sizes and numbers.
    """

    def __init__(self, head: nn.Module, regions: RegionSizes) -> None:
        super().__init__(
            anchor_generator(regions),
            head,
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=regions.sampled_anchors,
            positive_fraction=0.5,
            pre_nms_top_n=dict(zip(("training", "testing"), regions.before_nms, strict=True)),
            post_nms_top_n=dict(zip(("training", "testing"), regions.proposals, strict=True)),
            nms_thresh=0.7,
        )

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        targets: Sequence[Target] | None = None,
        generators: Sequence[torch.Generator] = (),
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Proposals (n, 4) of each image; in training also the losses, means over the workers.

        Args:
            generators: one for each worker, which its anchors are sampled with.
        """
        maps = list(features.values())
        of_level, deltas_of_level = self.head(maps)
        anchors = self.anchor_generator(images, maps)
        anchors_of_level = [level[0].numel() for level in of_level]
        objectness, deltas = concat_box_prediction_layers(of_level, deltas_of_level)
        proposals = self.box_coder.decode(deltas.detach(), anchors).view(len(anchors), -1, 4)
        boxes, _ = self.filter_proposals(
            proposals, objectness, images.image_sizes, anchors_of_level
        )
        if not self.training:
            return boxes, {}
        labels, matched = self.assign_targets_to_anchors(anchors, targets)
        wanted = torch.cat(self.box_coder.encode(matched, anchors))
        return boxes, self._losses(objectness.flatten(), deltas, labels, wanted, generators)

    def _losses(
        self,
        objectness: Tensor,
        deltas: Tensor,
        labels: list[Tensor],
        wanted: Tensor,
        generators: Sequence[torch.Generator],
    ) -> dict[str, Tensor]:
        sampler, workers = self.fg_bg_sampler, len(generators)
        chosen, counts, offset = [], [], 0
        for mine, generator in zip(split_workers(labels, workers), generators, strict=True):
            for of_image in mine:
                sampled = sample_balanced(
                    of_image, sampler.batch_size_per_image, sampler.positive_fraction, generator
                )
                chosen.append(torch.cat(sampled) + offset)
                offset += len(of_image)
            counts.append(sum(map(len, chosen[-len(mine) :])))
        rows = torch.cat(chosen)
        row_labels = torch.cat(labels)[rows].to(objectness.dtype)
        weights = mean_weights(counts, deltas)
        of_rows = F.binary_cross_entropy_with_logits(objectness[rows], row_labels, reduction="none")
        positive = row_labels >= 1
        boxes = F.smooth_l1_loss(
            deltas[rows[positive]], wanted[rows[positive]], beta=BETA, reduction="none"
        )
        return {
            "loss_objectness": (of_rows * weights).sum(),
            "loss_rpn_box_reg": (boxes.sum(1) * weights[positive]).sum(),
        }
