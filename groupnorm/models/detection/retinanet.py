"""RetinaNet (Lin et al. 2017, arXiv 1708.02002) with a norm of choice in each place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchvision.models.detection.retinanet import RetinaNet
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from groupnorm.layers import NormLayer
from groupnorm.models.classification.widths import NARROW_RESNET
from groupnorm.models.detection.architectures import Architecture, RegionSizes
from groupnorm.models.detection.backbone import Backbone, classification_body, stage_channels
from groupnorm.models.detection.fpn import NormedPyramid
from groupnorm.models.detection.heads import retinanet_head
from groupnorm.models.detection.inputs import NormalizeAndPad, Target, check_targets, generators_of
from groupnorm.models.detection.roi_heads import SCORE_THRESHOLD
from groupnorm.models.detection.rpn import ASPECT_RATIOS, anchor_generator


class WorkersRetinaNet(RetinaNet):  # type: ignore[misc]
    """torchvision's RetinaNet with labels that count from 1, as those of Mask R-CNN do.

    Column k of its scores is class k + 1. Every loss is a mean over images, of which every worker
    has as many, so that it is the mean over the workers as well; nothing is drawn at random.

    Args:
        num_classes: without a background, which RetinaNet has no column for.
    """

    def forward(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Target] | None = None,
        generators: Sequence[torch.Generator] | None = None,
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training, `classification` and `bbox_regression`; detections in evaluation.

        Arguments, detections and errors are those of `MaskRCNN`; masks are neither taken nor given.
        """
        if not self.training:
            detections: list[dict[str, Tensor]] = super().forward(list(images))
            return [{**one, "labels": one["labels"] + 1} for one in detections]
        checked = check_targets(images, targets, self.head_classes, masks=False)
        generators_of(images, generators)
        columns = [{"boxes": one["boxes"], "labels": one["labels"] - 1} for one in checked]
        losses: dict[str, Tensor] = super().forward(list(images), columns)
        return losses

    @property
    def head_classes(self) -> int:
        """Number of classes."""
        classes: int = self.head.classification_head.num_classes
        return classes


def retinanet(
    architecture: Architecture,
    regions: RegionSizes,
    norms: Mapping[str, NormLayer],
    *,
    num_classes: int,
    head_init: str,
    freeze_at: int,
    p6_on: str,
    transform: NormalizeAndPad,
) -> WorkersRetinaNet:
    """RetinaNet; the arguments are those of `build_detector`."""
    body, channels = architecture.body, architecture.fpn_channels
    stages = (2, 3) if body == NARROW_RESNET else (2, 3, 4)
    of_stages = stage_channels(body, stages)
    if body == NARROW_RESNET:
        extra = LastLevelMaxPool()
    else:
        extra = LastLevelP6P7(of_stages[-1] if p6_on == "c5" else channels, channels)
        extra.use_P5 = p6_on == "p5"  # C5 may have as many channels as P5
    fpn = NormedPyramid(of_stages, channels, norms["fpn"], extra)
    model = classification_body(body, norms["backbone"], freeze_at)
    anchors = len(ASPECT_RATIOS) * len(regions.anchor_sizes[0])
    head = retinanet_head(
        channels, anchors, num_classes, norms["head"], architecture.convolutions, head_init
    )
    detector = WorkersRetinaNet(
        Backbone(model, stages, fpn, channels),
        num_classes,
        anchor_generator=anchor_generator(regions),
        head=head,
        score_thresh=SCORE_THRESHOLD,
        detections_per_img=regions.detections,
        topk_candidates=regions.candidates,
    )
    detector.transform = transform
    return detector
