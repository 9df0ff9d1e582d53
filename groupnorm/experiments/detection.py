"""Detectors of garments: fine-tuned from backbones with each norm, and trained from scratch.

The paper's COCO experiments in small (Wu & He 2018, section 4.2): few images per worker, where
batch norm is frozen, or suffers. An arm is a detector with a norm in each of its places. A
fine-tuned one starts from a classifier of single garments with the norm of its backbone, which is
trained first; arms with the same one, and all seeds, share that run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from groupnorm.experiments.coco import MASK_RCNN_METRICS, pretrained_norm
from groupnorm.experiments.experiment import Experiment, Variant, smoke
from groupnorm.experiments.options import Options
from groupnorm.models.detection.architectures import architecture_of
from groupnorm.spec import NormSpec
from groupnorm.study.plan import Config, Finding, vary
from groupnorm.training.config import DetectionConfig, RunConfig
from groupnorm.training.metric import AT_THRESHOLD

SCALES = {
    "quick": "Mask R-CNN, 96 pixels, five categories, minutes",
    "standard": "Mask R-CNN and RetinaNet, 128 pixels, ten categories, one to two hours",
    "smoke": "two steps of each run, a minute or two",
}
PRETRAINING_EPOCHS = 5
LONGER_EPOCHS = 6
"""Of the group-normalized backbone whose error is to be no higher than batch norm's: that is 41.1 %
after 5 epochs, group norm's 42.6 % after 5 and 38.8 % after 6 (one run each, in the record of the
quick scale)."""
SEEDS = 2
"""Of an arm that is fine-tuned. One that is trained from scratch has one, and so has RetinaNet."""
SMOKE_SCENES, SMOKE_CROPS = 4, 32  # to train on, each in two epochs, and to evaluate on
PUBLISHED = ("coco-c4", "coco-systems", "coco-systems-mmdetection", "coco-scratch")
PUBLISHED_RETINANET = ("retinanet-first-set", "retinanet-second-set")

_BN, _FROZEN, _NONE = NormSpec("bn"), NormSpec("frozenbn"), NormSpec("none")
_GN, _GN_WS = NormSpec("gn", groups=8), NormSpec("gn", groups=8, ws=True)
_FROZEN_ALONE = {"norm": _NONE, "norms": {"backbone": _FROZEN}}

Fields = Mapping[str, Mapping[str, Any]]
"""By arm, the fields of its configuration that are not the recipe's."""
FROZEN_OR_TRAINED: Fields = {"frozen BN": _FROZEN_ALONE, "BN trained at 2": {"norm": _BN}}
AT_ONE: Fields = {"BN trained at 1": {"norm": _BN, "workers": 8, "batch_per_worker": 1}}
GROUPS: Fields = {"GN": {"norm": _GN}, "GN+WS": {"norm": _GN_WS}}
LONGER: Fields = {"GN, backbone pretrained longer": {"norm": _GN}}
SCRATCH: Fields = {"BN at 2 from scratch": {"norm": _BN}, "GN+WS from scratch": {"norm": _GN_WS}}
RETINANET: Fields = {
    "AffineChannel": _FROZEN_ALONE,
    "GN in pyramid": {"norm": _NONE, "norms": {"backbone": _FROZEN, "fpn": _GN}},
    "GN in pyramid, heads and backbone": {"norm": _GN},
}

_STATEMENTS = (
    ("BN trained at 2 images per worker is below frozen BN",
     "Wu & He 2018, section 4.2: about 31.7 and 37.7 box AP", "frozen BN", "BN trained at 2"),
    ("GN is above frozen BN",
     "Wu & He 2018, Tables 4 and 6: 38.8 and 37.7, 40.3 and 38.6 box AP", "GN", "frozen BN"),
    ("GN is above frozen BN (here with a backbone pretrained longer)",
     "the same", "GN, backbone pretrained longer", "frozen BN"),
    ("GN is above BN from scratch (here with WS, and BN not synchronized)",
     "Wu & He 2018, Table 7: 39.5 and 34.5 box AP", "GN+WS from scratch", "BN at 2 from scratch"),
    ("GN with WS is above GN",
     "open-mmlab/mmdetection, configs/gn+ws: 40.6 and 40.2 box AP", "GN+WS", "GN"),
    ("RetinaNet with GN in the pyramid is above AffineChannel (here by box AP)",
     "dkhoa.dev: recall 26.8 and 24.6 %, 26.2 and 24.9 %", "GN in pyramid", "AffineChannel"),
)  # fmt: skip
"""What was published, where, and the arms of which the first is better by it."""


def quick() -> DetectionConfig:
    """Mask R-CNN with a narrow backbone on scenes of 96 pixels, 4 workers with 2 images each.

    500 steps have to do, which decides where it differs from the paper, for every arm alike: the
    learning rate is 0.03 for the 8 images of a step, three times Detectron's, and falls along a
    cosine; the warm-up has 50 steps; gradients longer than 10 are scaled down; the hidden
    convolutions of the heads begin with He's initialization; no part of the backbone is frozen but
    frozen batch norm itself. No head has a norm. Of the 3,000 scenes 1,000 are trained on, four
    times each, so that there are epochs to evaluate after.
    """
    return DetectionConfig(
        model="mask_rcnn_narrow",
        norms={"mask_head": _NONE},
        head_init="he",
        data="garments",
        train_images=1000,
        workers=4,
        batch_per_worker=2,
        steps=500,
        schedule="cosine",
        warmup_steps=50,
        base_lr=0.06,
        clip_norm=10.0,
        evaluate_every=2,
    )


def standard() -> DetectionConfig:
    """The quick recipe on 6,000 scenes of 128 pixels with ten categories, each seen twice.

    1,500 steps, because of the time.
    """
    return vary(quick(), data="garments-128", train_images=None, steps=1500, evaluate_every=1)


def pretraining(config: DetectionConfig, epochs: int = PRETRAINING_EPOCHS) -> RunConfig:
    """The classifier whose weights the backbone of `config` starts from.

    Frozen batch norm starts from batch norm. 10,000 crops of 48 pixels, 64 a step, Nesterov
    momentum, learning rate 0.1 along a cosine, the same for every norm.
    """
    return RunConfig(
        model=architecture_of(config.model).body,
        norm=pretrained_norm(config),
        data="garments-crops",
        workers=1,
        batch_per_worker=64,
        epochs=epochs,
        schedule="cosine",
        base_lr=0.4,
        reported_epochs=1,
    )


class Arm(NamedTuple):
    """A line of the comparison.

    Attributes:
        epochs: that the classifier is trained for which its backbone comes from; None: it starts
            from scratch.
    """

    name: str
    config: DetectionConfig
    epochs: int | None
    seeds: int


def arms_of(scale: str) -> list[Arm]:
    """The arms of a scale, each group of equal length and detector with its reference first."""
    base = standard() if scale == "standard" else quick()
    arms = _arms(base, FROZEN_OR_TRAINED)
    if scale == "standard":
        arms += _arms(base, AT_ONE)
    arms += _arms(base, GROUPS)
    if scale != "smoke":
        arms += _arms(base, LONGER, LONGER_EPOCHS)
    arms += _arms(vary(base, steps=2 * (base.steps or 0)), SCRATCH, None, seeds=1)
    if scale == "standard":
        arms += _arms(vary(base, model="retinanet_narrow", norms={}), RETINANET, seeds=1)
    return arms


def detection(options: Options) -> Experiment:
    """Mask R-CNN on scenes of garments, and RetinaNet, by the norm of backbone and pyramid.

    `groupnorm study detection`. The norm of an arm is in its backbone and its feature pyramid, with
    WS in both where the arm has it; with frozen batch norm the pyramid has none. The
    classifiers have errors of their own after `PRETRAINING_EPOCHS`; in one arm group norm's is
    trained for `LONGER_EPOCHS`. From scratch a detector has twice the steps. Smoke: a few scenes,
    one seed, no longer pretraining.
    """
    scale = options.scale or next(iter(SCALES))
    variants, initial = [], {}
    for name, config, epochs, seeds in arms_of(scale):
        if scale == "smoke":
            config, seeds = _few(config, config.batch_per_worker, SMOKE_SCENES), 1
        if epochs is not None:
            start = pretraining(config, epochs)
            if scale == "smoke":
                start = _few(start, SMOKE_CROPS, SMOKE_CROPS)
            initial[start.run_name()] = start
            config = vary(config, init=start.run_name())
        labels = {"arm": name, "training": _training(scale, config, epochs)}
        variants.append(Variant(config, labels, seeds))
    return Experiment(
        title="Detectors of garments by norm, fine-tuned and from scratch",
        source="Wu & He 2018, Tables 4, 6 and 7, on small scenes",
        shows="arms",
        variants=tuple(variants),
        published=(*PUBLISHED, *(PUBLISHED_RETINANET if scale == "standard" else ())),
        protocol="fixed-step",
        metric=MASK_RCNN_METRICS[0],
        also=(*MASK_RCNN_METRICS[1:], *(AT_THRESHOLD if scale == "standard" else ())),
        findings=_findings(variants),
        initial=tuple(initial.values()),
    )


def _training(scale: str, config: DetectionConfig, epochs: int | None) -> str:
    """What arms that are compared have in common: detector and length.

    Only at smoke scale do detectors from scratch have the length of the others, and another word.
    """
    family = "RetinaNet, " if config.model.startswith("retinanet") else ""
    scratch = " from scratch" if scale == "smoke" and epochs is None else ""
    return f"{family}{config.steps:,} steps{scratch}"


def _findings(variants: Iterable[Variant]) -> tuple[Finding, ...]:
    """The published findings about two of the arms."""
    labels = {variant.labels["arm"]: variant.labels for variant in variants}
    return tuple(
        Finding(statement, source, labels[better], labels[worse])
        for statement, source, better, worse in _STATEMENTS
        if better in labels and worse in labels
    )


def _arms(
    base: DetectionConfig,
    fields: Fields,
    epochs: int | None = PRETRAINING_EPOCHS,
    seeds: int = SEEDS,
) -> list[Arm]:
    return [Arm(name, vary(base, **own), epochs, seeds) for name, own in fields.items()]


def _few(config: Config, batch_per_worker: int, images: int) -> Config:
    """At smoke scale: trained, and evaluated, on a few images."""
    small = smoke(config, batch_per_worker, config.data)
    return vary(small, train_images=images, validation_images=images)
