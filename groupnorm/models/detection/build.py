"""Detectors by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from groupnorm.layers import NormLayer, norm_layer
from groupnorm.models.detection.architectures import (
    BOX_HEADS,
    HEAD_INITS,
    IMAGE_MEAN,
    IMAGE_STD,
    architecture_of,
    check_box_head,
)
from groupnorm.models.optional import torchvision_models
from groupnorm.models.places import norm_of_place
from groupnorm.spec import NormSpec

NormLike = str | NormSpec | NormLayer


def build_detector(
    name: str,
    *,
    norm: NormLike = "none",
    norms: Mapping[str, NormLike] | None = None,
    num_classes: int,
    canvas: int,
    box_head: str = "2fc",
    head_init: str = "published",
    freeze_at: int = 0,
    rpn_convolutions: int = 1,
    p6_on: str = "c5",
    image_mean: Sequence[float] = IMAGE_MEAN,
    image_std: Sequence[float] = IMAGE_STD,
) -> nn.Module:
    """Build a detector by name with fresh weights from torch's default generator.

    `MaskRCNN` or `WorkersRetinaNet`, whose forward passes take images, targets and the generators
    of the workers; nothing is downloaded. Modules and keys are named as torchvision's.

    The norms' places are `backbone`, `fpn`, and `box_head` and `mask_head` of Mask R-CNN or `head`
    of RetinaNet; Mask R-CNN C4 has `backbone` alone, which its head belongs to. The region
    proposals, the predictors and the mask's transposed convolution never have one. Where a place's
    spec ends in `+ws`, each convolution is weight-standardized that a norm follows there, or with
    `none+ws` would follow. A factory's
    `batch_per_worker` counts images and serves backbone, pyramid and RetinaNet's heads; the norms
    of heads on regions get each worker's regions instead (`rows_per_worker`).

    Args:
        name: one of `DETECTORS`, such as "mask_rcnn_resnet50", "mask_rcnn_c4_resnet50",
            "retinanet_resnet50", "mask_rcnn_narrow".
        norm: normalization of every place that `norms` does not give.
        norms: normalizations by place.
        num_classes: without the background.
        canvas: shorter side of the images in pixels. Anchors, the regions that each level of the
            pyramid pools, and the numbers of proposals and regions follow it (`RegionSizes`).
        box_head: of Mask R-CNN with a pyramid: "2fc", which has no norm, or "4conv1fc".
        head_init: "published", or "he" for short trainings (`groupnorm.models.detection.heads`).
        freeze_at: how many parts of the backbone learn nothing, counted as in Detectron: 1 the
            stem, 2 also stage1, which is its setting for fine-tuning. Their batch norm is frozen.
        rpn_convolutions: in the head of the proposals: 1, or 2 as in torchvision's second version.
        p6_on: what RetinaNet's level P6 is made of: "c5" as published, or "p5" as in torchvision's
            first version.
        image_mean: of red, green and blue of images in 0 to 1, and `image_std` alike: those that
            the backbone was pretrained with.

    Raises:
        ValueError: unknown name, place, box_head, head_init or p6_on; a norm given for the box head
            2fc; no class; too small a canvas; more parts to freeze than there are; `none+nf`.
        ImportError: torchvision is missing.
    """
    architecture = architecture_of(name)
    for what, value, known in (
        ("box_head", box_head, BOX_HEADS),
        ("head_init", head_init, HEAD_INITS),
        ("p6_on", p6_on, ("c5", "p5")),
    ):
        if value not in known:
            raise ValueError(f"{what} must be {' or '.join(known)}, got {value!r}")
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    placed = _norms(name, norm, norms, architecture.places)
    check_box_head(box_head, norm_layer((norms or {}).get("box_head", "none")).spec)
    torchvision_models()
    from groupnorm.models.detection.inputs import NormalizeAndPad
    from groupnorm.models.detection.mask_rcnn import mask_rcnn, mask_rcnn_c4
    from groupnorm.models.detection.retinanet import retinanet

    regions = architecture.regions.scaled_to(canvas)
    transform = NormalizeAndPad(image_mean, image_std)
    if architecture.family == "retinanet":
        detector: nn.Module = retinanet(
            architecture, regions, placed,
            num_classes=num_classes, head_init=head_init, freeze_at=freeze_at, p6_on=p6_on,
            transform=transform,
        )  # fmt: skip
    elif architecture.family == "mask_rcnn":
        detector = mask_rcnn(
            architecture, regions, placed,
            num_classes=num_classes, box_head_kind=box_head, head_init=head_init,
            freeze_at=freeze_at, rpn_convolutions=rpn_convolutions, transform=transform,
        )  # fmt: skip
    else:
        detector = mask_rcnn_c4(
            architecture, regions, placed,
            num_classes=num_classes, head_init=head_init, freeze_at=freeze_at,
            rpn_convolutions=rpn_convolutions, transform=transform,
        )  # fmt: skip
    detector.norm_specs = {place: layer.spec for place, layer in placed.items()}  # type: ignore
    return detector


_ON_REGIONS = ("box_head", "mask_head")


def _norms(
    name: str, norm: NormLike, norms: Mapping[str, NormLike] | None, places: tuple[str, ...]
) -> dict[str, NormLayer]:
    placed = norm_of_place(norm, norms, places, name)
    for place, layer in placed.items():
        if layer.spec.nf:
            raise ValueError(
                f"{layer.spec} needs residual blocks of another form than {name} has; it goes with "
                "the CIFAR-type ResNets (resnet8, resnet20, ...)"
            )
        if place in _ON_REGIONS:
            placed[place] = norm_layer(layer.spec)
    return placed
