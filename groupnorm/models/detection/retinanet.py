"""RetinaNet (Lin et al. 2017, arXiv 1708.02002) with a norm of choice in each place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNet
from torchvision.ops import box_iou
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

POSITIVE_OVERLAP, NEGATIVE_OVERLAP = 0.5, 0.4
ALPHA = 0.25
"""Of the focal loss, where a class is wanted."""


class WorkersRetinaNet(RetinaNet):  # type: ignore[misc]
    """torchvision's RetinaNet with labels that count from 1, as those of Mask R-CNN do.

    Column k of its scores is class k + 1. Every loss is a mean over images, of which every worker
    has as many, so that it is the mean over the workers as well; nothing is drawn at random.
    Matches and losses are torchvision's, computed for all images together.

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
        generators_of(self, images, generators)
        batch, _ = self.transform(images)
        maps = list(self.backbone(batch.tensors).values())
        outputs = self.head(maps)
        # The anchors of one image, which are those of every image in the batch.
        (anchors,) = self.anchor_generator(ImageList(batch.tensors, batch.image_sizes[:1]), maps)
        return self._losses(outputs, anchors, checked)

    @property
    def head_classes(self) -> int:
        """Number of classes."""
        classes: int = self.head.classification_head.num_classes
        return classes

    def _losses(
        self, outputs: Mapping[str, Tensor], anchors: Tensor, targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """The focal loss of all anchors that count, and the L1 loss of the boxes of positive ones.

        The sums over an image's anchors are divided by its number of positive ones, or by 1.

        Args:
            outputs: of the head, `cls_logits` (N, A, K) and `bbox_regression` (N, A, 4).
            anchors: (A, 4).
        """
        found = match_anchors([target["boxes"] for target in targets], anchors)
        image, anchor, number = found.positive
        boxes, labels = (
            pad_sequence([target[name] for target in targets], batch_first=True)[image, number]
            for name in ("boxes", "labels")
        )
        positives = torch.bincount(image, minlength=len(targets))
        logits = outputs["cls_logits"]
        weights = (len(targets) * positives.clamp_min(1)).to(logits.dtype).reciprocal()
        wanted = image, anchor, labels - 1
        of_scores = focal_loss(logits, wanted, weights[:, None] * found.counted)
        deltas = outputs["bbox_regression"][image, anchor]
        expected = self.box_coder.encode_single(boxes, anchors[anchor])
        of_boxes = F.l1_loss(deltas, expected, reduction="none") * weights[image, None]
        return {"classification": of_scores, "bbox_regression": of_boxes.sum()}


class Matches(NamedTuple):
    """Which anchors stand for which objects.

    Attributes:
        positive: image, anchor and number of the object in its image, (P,) each.
        counted: bool (N, A), without anchors that are neither positive nor negative.
    """

    positive: tuple[Tensor, Tensor, Tensor]
    counted: Tensor


def match_anchors(boxes: Sequence[Tensor], anchors: Tensor) -> Matches:
    """torchvision's `Matcher` for all images of a batch at once.

    An anchor is positive from `POSITIVE_OVERLAP` with an object on, and where no other one overlaps
    an object more; negative below `NEGATIVE_OVERLAP` with every object.

    Args:
        boxes: of the objects of each image, (n, 4).
        anchors: (A, 4), those of every image.
    """
    padded = pad_sequence(list(boxes), batch_first=True)
    images, most = padded.shape[:2]
    if most == 0:
        nothing = torch.zeros(0, dtype=torch.int64, device=anchors.device)
        counted = torch.ones(images, len(anchors), dtype=torch.bool, device=anchors.device)
        return Matches((nothing, nothing, nothing), counted)
    overlap = box_iou(padded.flatten(0, 1), anchors).view(images, most, -1)
    counts = torch.tensor([len(of_image) for of_image in boxes], device=anchors.device)
    is_object = torch.arange(most, device=anchors.device) < counts[:, None]
    greatest = overlap.amax(2).where(is_object, torch.inf)
    closest = (overlap == greatest[..., None]).any(1)
    best = overlap.amax(1)
    positive = closest | (best >= POSITIVE_OVERLAP)
    image, anchor = torch.where(positive)
    number = overlap[image, :, anchor].argmax(1)
    return Matches((image, anchor, number), positive | (best < NEGATIVE_OVERLAP))


def focal_loss(logits: Tensor, wanted: tuple[Tensor, ...], weights: Tensor) -> Tensor:
    """The weighted sum of focal losses (Lin et al. 2017, equation 5; alpha 0.25, gamma 2).

    With s = -x for a wanted class and x for the others, a loss is alpha_t sigmoid(s)^2 softplus(s).

    Args:
        logits: (N, A, K).
        wanted: indices of the wanted classes.
        weights: (N, A).
    """
    signs = torch.ones_like(logits)
    signs[wanted] = -1
    alphas = torch.full_like(logits, 1 - ALPHA)
    alphas[wanted] = ALPHA
    s = logits * signs
    of_anchors = (alphas * s.sigmoid().square() * F.softplus(s)).sum(2)
    return (of_anchors * weights).sum()


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
        fg_iou_thresh=POSITIVE_OVERLAP,
        bg_iou_thresh=NEGATIVE_OVERLAP,
        score_thresh=SCORE_THRESHOLD,
        detections_per_img=regions.detections,
        topk_candidates=regions.candidates,
    )
    detector.transform = transform
    return detector
