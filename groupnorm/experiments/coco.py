"""The paper's COCO experiments (Wu & He 2018, section 4.2), and a later one with RetinaNet.

A row of a table is an arm: a detector with a norm in each of its places. A fine-tuned arm starts
from an ImageNet classifier with the norm of its backbone, which is trained first, by the recipe of
`imagenet`. Frozen batch norm starts from batch norm and keeps its statistics.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from groupnorm.experiments import imagenet
from groupnorm.experiments.experiment import SMOKE_SIZE, Experiment, Variant, smoke
from groupnorm.experiments.options import Options
from groupnorm.models.detection.architectures import architecture_of
from groupnorm.spec import NormSpec
from groupnorm.study.plan import vary
from groupnorm.training.config import DetectionConfig, RunConfig
from groupnorm.training.metric import AT_THRESHOLD, MASK_DETECTION, Metric

PAPER = "Wu & He 2018"
STEPS_1X, STEPS_2X, STEPS_3X = 90_000, 180_000, 270_000
"""Detectron's schedules, in steps of 16 images: about 12, 25 and 37 epochs of COCO."""
DROPS_3X = (7 / 9, 25 / 27)
"""After 210,000 and 250,000 steps. 1x and 2x drop after 2/3 and 8/9, as any `DetectionConfig`."""
SMOKE_DATA = "garments"
SMOKE_SCENES = {"train_images": 8, "validation_images": 2}
_OF_RETINANET, _OF_MASKS = (
    tuple(m for m in MASK_DETECTION if m.name in (f"{kind}_ap", f"{kind}_ap50", f"{kind}_ap75"))
    for kind in ("box", "mask")
)
MASK_RCNN_METRICS = (*_OF_RETINANET, *_OF_MASKS)
_PRETRAINED = "besides each norm's ImageNet run, about 27 hours on 8 V100"

Arms = Mapping[str, Mapping[str, Any]]
"""By arm, the fields of its configuration that are not the recipe's."""

_BN, _GN, _NONE = NormSpec("bn"), NormSpec("gn"), NormSpec("none")
_FROZEN = NormSpec("frozenbn")
_FROZEN_ALONE = {"norm": _NONE, "norms": {"backbone": _FROZEN}}
_GN_EVERYWHERE = {"norm": _GN, "box_head": "4conv1fc"}
_R101 = {"model": "mask_rcnn_resnet101"}
_LONG = {"steps": STEPS_3X, "drops": DROPS_3X}

C4: Arms = {
    "frozen BN": {"norm": _FROZEN},
    "GN": {"norm": _GN},
    "LN": {"norm": NormSpec("ln")},
    "BN trained at 2": {"norm": _BN, "batch_per_worker": 2, "steps": STEPS_2X},
}
HEADS: Arms = {
    "frozen BN": _FROZEN_ALONE,
    "frozen BN, GN in box head": {"norm": _NONE, "norms": {"backbone": _FROZEN, "box_head": _GN}},
    "GN in backbone and box head": {"norm": _NONE, "norms": {"backbone": _GN, "box_head": _GN}},
    "frozen BN, BN in box head": {"norm": _NONE, "norms": {"backbone": _FROZEN, "box_head": _BN}},
    "frozen BN, box head 2fc": {**_FROZEN_ALONE, "box_head": "2fc"},
}
SYSTEMS: Arms = {
    "R50, frozen BN": _FROZEN_ALONE,
    "R50, GN": _GN_EVERYWHERE,
    "R50, GN, long": {**_GN_EVERYWHERE, **_LONG},
    "R101, frozen BN": {**_FROZEN_ALONE, **_R101},
    "R101, GN": {**_GN_EVERYWHERE, **_R101},
    "R101, GN, long": {**_GN_EVERYWHERE, **_R101, **_LONG},
}
SCRATCH: Arms = {
    "R50, synchronized BN": {**_GN_EVERYWHERE, "norm": NormSpec("syncbn"), "accumulate": 1},
    "R50, GN": _GN_EVERYWHERE,
    "R101, GN": {**_GN_EVERYWHERE, **_R101},
}
RETINANET: Arms = {
    "AffineChannel": _FROZEN_ALONE,
    "GN in pyramid": {"norm": _NONE, "norms": {"backbone": _FROZEN, "fpn": _GN}},
    "GN in pyramid, heads and backbone": {"norm": _GN},
}


def recipe(model: str = "mask_rcnn_resnet50") -> DetectionConfig:
    """How the paper fine-tuned with a feature pyramid (Detectron's `04_2018_gn_baselines`).

    8 workers with 2 images each, 800 pixels and at most 1333, 180,000 steps (2x), learning rate
    0.02 divided by 10 after 120,000 and 160,000, momentum 0.9, weight decay 1e-4 and none on gamma
    and beta, warm-up over 500 steps from 1/3, stem and stage1 frozen. A step is made in four
    passes, which is no part of the publication: two workers at a time need about 20 GB, by
    Detectron's 8.6 to 12.4 GB for one.
    """
    return DetectionConfig(
        model=model,
        data="coco",
        freeze_at=2,
        workers=8,
        batch_per_worker=2,
        accumulate=4,
        steps=STEPS_2X,
        base_lr=0.02,
    )


def pretraining(config: DetectionConfig) -> RunConfig:
    """The classifier whose weights the backbone of `config` starts from."""
    return _classifier(architecture_of(config.model).body, pretrained_norm(config))


def pretrained_norm(config: DetectionConfig) -> NormSpec:
    """The norm of the classifier that a backbone starts from; frozen batch norm's was trained."""
    norm = config.norms.get("backbone", config.norm)
    return _BN if norm == _FROZEN else norm


@cache
def _classifier(body: str, norm: NormSpec) -> RunConfig:
    return vary(imagenet.recipe(body), norm=norm)


def _experiment(
    title: str,
    where: str,
    base: DetectionConfig,
    arms: Arms,
    options: Options,
    *,
    published: tuple[str, ...],
    result: str,
    time: str,
    source: str = PAPER,
    pretrained: bool = True,
    metrics: tuple[Metric, ...] = MASK_RCNN_METRICS,
    result_metric: str = "box AP in %",
) -> Experiment:
    """A table with a row for each arm, and the classifiers that its arms start from, each once."""
    variants, initial = [], {}
    for arm, changes in arms.items():
        config = vary(base, **changes)
        if pretrained:
            start = pretraining(config)
            if options.scale == "smoke":
                start = smoke(start, 4, imagenet.SMOKE_DATA)
            initial[start.run_name()] = start
            config = vary(config, init=start.run_name())
        variants.append(Variant(_scaled(config, options), {"arm": arm}))
    return Experiment(
        title=title,
        source=f"{source}, {where}",
        result=result,
        result_metric=result_metric,
        time=time,
        shows="arms",
        variants=tuple(variants),
        published=published,
        metric=metrics[0],
        also=metrics[1:],
        initial=tuple(initial.values()),
    )


def _scaled(config: DetectionConfig, options: Options) -> DetectionConfig:
    """At smoke scale the same network, norms and optimizer on a few small scenes."""
    if options.scale != "smoke":
        return config
    small = smoke(vary(config, accumulate=1), config.batch_per_worker, SMOKE_DATA)
    return vary(small, short_side=SMOKE_SIZE, **SMOKE_SCENES)


def c4(options: Options) -> Experiment:
    """Mask R-CNN C4 with ResNet-50: frozen BN, GN, LN, and BN that is trained (Table 4).

    `groupnorm study coco-c4`. Published: box AP 37.7 frozen BN, 38.8 GN, 36.9 LN, and about 31.7
    (6 less) for BN trained at 2 images. Detectron's baseline of this network, 37.8, has 1 image per
    worker, 360,000 steps and half the learning rate; so have all arms but the last, which has 2
    images and as many epochs. The paper does not say its own schedule. Smoke: small scenes.
    """
    base = vary(recipe("mask_rcnn_c4_resnet50"), batch_per_worker=1, steps=2 * STEPS_2X)
    return _experiment(
        "Mask R-CNN C4 with ResNet-50 on COCO by norm",
        "Table 4 and section 4.2",
        base,
        C4,
        options,
        published=("coco-c4",),
        result="frozen BN 37.7, GN 38.8, LN 36.9, BN trained at 2 about 31.7",
        time=f"62 hours on 8 P100 with frozen BN (Detectron), {_PRETRAINED}",
    )


def heads(options: Options) -> Experiment:
    """Mask R-CNN with a feature pyramid, ResNet-50, norms in backbone and box head (Table 5).

    `groupnorm study coco-heads`. Published: box AP 38.6 frozen BN, 39.5 with GN in the box head,
    40.0 with GN in the backbone too; BN that is trained in the box head is about 9 worse, and the
    box head 2fc has 38.5. The schedule is not published; this is 2x, as in Table 6. Smoke: small
    scenes.
    """
    return _experiment(
        "Mask R-CNN with ResNet-50 and a feature pyramid on COCO by norm of the box head",
        "Table 5 and section 4.2",
        vary(recipe(), box_head="4conv1fc"),
        HEADS,
        options,
        published=("coco-heads",),
        result="frozen BN 38.6, GN in box head 39.5, in backbone too 40.0; BN in box head 9 worse",
        time=f"about 45 to 51 hours on 8 P100 for each (Detectron, by Table 6), {_PRETRAINED}",
    )


def systems(options: Options) -> Experiment:
    """Mask R-CNN with frozen BN, with GN in every place, and with GN trained longer (Table 6).

    `groupnorm study coco-systems`. Published: box AP 38.6, 40.3 and 40.8 with ResNet-50, 40.9, 41.8
    and 42.3 with ResNet-101. The box head is 2fc with frozen BN and 4conv1fc with GN, as published:
    frozen BN gains 0.2 by 4conv1fc. Smoke: small scenes.
    """
    return _experiment(
        "Mask R-CNN with a feature pyramid on COCO, GN in every place",
        "Table 6",
        recipe(),
        SYSTEMS,
        options,
        published=(
            "coco-systems",
            "coco-systems-detectron",
            "coco-systems-mmdetection",
            "coco-systems-detectron2",
        ),
        result="R50 frozen BN 38.6, GN 40.3, long 40.8; R101 40.9, 41.8, 42.3",
        time=f"45 to 88 hours on 8 P100 for each (Detectron), {_PRETRAINED}, ResNet-101 twice that",
    )


def scratch(options: Options) -> Experiment:
    """Mask R-CNN from random weights for 270,000 steps, nothing frozen (Table 7).

    `groupnorm study coco-scratch`. Published: box AP 39.5 with GN in ResNet-50 and 41.0 in
    ResNet-101. Beside them the paper has 34.5 of another one (Li et al. 2018), with synchronized BN
    in ResNet-50 and without masks; here it is the same network and recipe with synchronized BN in
    every place, all images of a step in one pass. Smoke: small scenes.
    """
    return _experiment(
        "Mask R-CNN with a feature pyramid on COCO from scratch",
        "Table 7",
        vary(recipe(), freeze_at=0, **_LONG),
        SCRATCH,
        options,
        published=("coco-scratch",),
        result="R50 GN 39.5, R101 GN 41.0; another paper's R50 with synchronized BN 34.5",
        time="82 hours (R50) and 93 (R101) on 8 P100 (Detectron)",
        pretrained=False,
    )


def retinanet(options: Options) -> Experiment:
    """RetinaNet with AffineChannel, with GN in the feature pyramid, and with GN everywhere.

    `groupnorm study coco-retinanet`. Published (dkhoa.dev 2019, two private data sets, recall and
    precision in %): AffineChannel 24.6 and 33.1, GN in the pyramid 26.8 and 36.2; 24.9 and 34.0,
    26.2 and 37.6. AffineChannel is frozen BN in the backbone and no norm elsewhere. GN in heads and
    backbone too is what that report left open. Data and schedule are not public: here it is COCO,
    ResNet-50 and Detectron's own schedule for RetinaNet, 1x at a learning rate of 0.01, with which
    Detectron has a box AP of 35.7. Smoke: small scenes.
    """
    return _experiment(
        "RetinaNet with ResNet-50 on COCO, GN in the feature pyramid or everywhere",
        "post of 2019-05-28",
        vary(recipe("retinanet_resnet50"), steps=STEPS_1X, base_lr=0.01),
        RETINANET,
        options,
        source="dkhoa.dev",
        published=("retinanet-first-set", "retinanet-second-set"),
        result="AffineChannel 24.6 and 33.1, GN in pyramid 26.8 and 36.2 (private data)",
        result_metric="recall and precision in %",
        time=f"12 hours on 8 P100 with frozen BN (Detectron), {_PRETRAINED}",
        metrics=(*_OF_RETINANET, *AT_THRESHOLD),
    )
