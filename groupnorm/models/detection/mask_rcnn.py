"""Mask R-CNN (He et al. 2017, arXiv 1703.06870) with a feature pyramid, and its C4 variant."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from groupnorm.layers import NormLayer
from groupnorm.models.classification.widths import NARROW_RESNET
from groupnorm.models.detection.architectures import Architecture, RegionSizes
from groupnorm.models.detection.backbone import (
    Backbone,
    classification_body,
    stage_channels,
    stage_strides,
)
from groupnorm.models.detection.fpn import NormedPyramid
from groupnorm.models.detection.heads import (
    POOLED,
    box_head,
    box_predictor,
    mask_head,
    mask_predictor,
    proposal_head,
)
from groupnorm.models.detection.inputs import NormalizeAndPad, Target, check_targets, generators_of
from groupnorm.models.detection.region_pooling import region_pooling
from groupnorm.models.detection.roi_heads import RegionHeads
from groupnorm.models.detection.rpn import ASPECT_RATIOS, RegionProposals


class MaskRCNN(GeneralizedRCNN):  # type: ignore[misc]
    """torchvision's Mask R-CNN whose pass may hold the images of several workers.

    Args:
        num_classes: without the background.
    """

    def __init__(
        self,
        backbone: nn.Module,
        rpn: nn.Module,
        roi_heads: nn.Module,
        transform: nn.Module,
        num_classes: int,
    ) -> None:
        super().__init__(backbone, rpn, roi_heads, transform)
        self.num_classes = num_classes

    def forward(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Target] | None = None,
        generators: Sequence[torch.Generator] | None = None,
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training; detections in evaluation.

        Args:
            images: of each image (3, H, W), in 0 to 1, red, green and blue; it is normalized here.
            targets: in training, of each image `boxes` (n, 4) in pixels, `labels` (n,) int64 from
                1, and `masks` (n, H, W); n may be 0.
            generators: one for each worker whose images these are, in their order; every worker has
                the same number of images. Anchors and regions of a worker are sampled with its
                generator alone, and every loss is the mean over the workers of the worker's own, as
                averaged gradients of W processes are. None: one worker, that draws from torch's
                default generator.

        Returns:
            In training `loss_classifier`, `loss_box_reg`, `loss_mask`, `loss_objectness` and
            `loss_rpn_box_reg`, scalars whose sum is minimized. In evaluation for each image
            `boxes`, `labels`, `scores`, by falling score, and `masks` (n, 1, H, W) in 0 to 1.

        Raises:
            ValueError: in training, targets of another form (`check_targets`), or workers with
                different numbers of images.
        """
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
        if self.training:
            targets = check_targets(images, targets, self.num_classes, masks=True)
            generators = generators_of(self.backbone, images, generators)
        batch, _ = self.transform(images)
        features = self.backbone(batch.tensors)
        if not self.training:
            proposals, _ = self.rpn(batch, features)
            found, _ = self.roi_heads(features, proposals, sizes)
            detections: list[dict[str, Tensor]] = self.transform.postprocess(found, sizes, sizes)
            return detections
        proposals, of_proposals = self.rpn(batch, features, targets, generators)
        _, of_regions = self.roi_heads(features, proposals, sizes, targets, generators)
        return {**of_regions, **of_proposals}


def mask_rcnn(
    architecture: Architecture,
    regions: RegionSizes,
    norms: Mapping[str, NormLayer],
    *,
    num_classes: int,
    box_head_kind: str,
    head_init: str,
    freeze_at: int,
    rpn_convolutions: int,
    transform: NormalizeAndPad,
) -> MaskRCNN:
    """Mask R-CNN on a feature pyramid; the arguments are those of `build_detector`."""
    body, channels = architecture.body, architecture.fpn_channels
    stages = (1, 2, 3) if body == NARROW_RESNET else (1, 2, 3, 4)
    fpn = NormedPyramid(
        stage_channels(body, stages),
        channels,
        norms["fpn"],
        None if body == NARROW_RESNET else LastLevelMaxPool(),
    )
    model = classification_body(body, norms["backbone"], freeze_at)
    strides = stage_strides(stages)
    heads = RegionHeads(
        regions,
        box_pooling=region_pooling(strides, POOLED, regions),
        box_head=box_head(box_head_kind, channels, architecture.hidden, norms["box_head"]),
        box_predictor=box_predictor(architecture.hidden, num_classes),
        mask_pooling=region_pooling(strides, 2 * POOLED, regions),
        mask_head=mask_head(channels, architecture.convolutions, norms["mask_head"]),
        mask_predictor=mask_predictor(channels, channels, num_classes),
    )
    proposals = RegionProposals(
        proposal_head(channels, len(ASPECT_RATIOS), rpn_convolutions, head_init), regions
    )
    backbone = Backbone(model, stages, fpn, channels)
    return MaskRCNN(backbone, proposals, heads, transform, num_classes)


def mask_rcnn_c4(
    architecture: Architecture,
    regions: RegionSizes,
    norms: Mapping[str, NormLayer],
    *,
    num_classes: int,
    head_init: str,
    freeze_at: int,
    rpn_convolutions: int,
    transform: NormalizeAndPad,
) -> MaskRCNN:
    """Mask R-CNN C4: proposals on the fourth stage's input, whose convolutions are the head.

    Regions are pooled to 14x14, stage4 (the papers' res5) halves that, and boxes and masks share
    its output (Ren et al. 2015; He et al. 2017, Figure 4 left). Its norms are the backbone's, but
    see regions.
    """
    body = architecture.body
    model = classification_body(body, norms["backbone"], freeze_at)
    (channels,), (of_head,) = stage_channels(body, (3,)), stage_channels(body, (4,))
    predictor = box_predictor(of_head, num_classes)
    heads = RegionHeads(
        regions,
        box_pooling=region_pooling(stage_strides((3,)), 2 * POOLED, regions),
        box_head=nn.Sequential(OrderedDict(layer4=model.get_submodule("layer4"))),
        box_predictor=nn.Sequential(nn.AdaptiveAvgPool2d(1), predictor),
        mask_pooling=None,
        mask_head=None,
        mask_predictor=mask_predictor(of_head, _C4_MASK_CHANNELS, num_classes),
    )
    anchors = len(ASPECT_RATIOS) * len(regions.anchor_sizes[0])
    proposals = RegionProposals(
        proposal_head(channels, anchors, rpn_convolutions, head_init), regions
    )
    backbone = Backbone(model, (3,), None, channels)
    return MaskRCNN(backbone, proposals, heads, transform, num_classes)


_C4_MASK_CHANNELS = 256
