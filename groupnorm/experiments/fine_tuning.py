"""What a conversion is for: converted networks fine-tuned on another task at few images per worker.

A classifier with batch norm becomes the encoder of a U-Net that labels pixels. A worker has 1, 2 or
4 images then, of which batch norm has poor statistics. Its norms are converted to group norm,
replaced by new group norms, frozen, or trained as they are; a last encoder starts from random
weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from groupnorm.experiments.conversion import classifier
from groupnorm.experiments.experiment import Experiment, Variant
from groupnorm.experiments.options import Options
from groupnorm.models.segmentation.architectures import UNET_ENCODER
from groupnorm.spec import NormSpec
from groupnorm.study.plan import vary
from groupnorm.study.tuning import Tune
from groupnorm.training.config import RunConfig, SegmentationConfig
from groupnorm.training.metric import SEGMENTATION

SCALES = {
    "quick": "one seed, the learning rate not tuned, minutes",
    "full": "five seeds, the learning rate tuned for each arm, less than half an hour",
    "smoke": "two steps of each run, a minute",
}
SEEDS = {"quick": 1, "full": 5, "smoke": 1}
STEP_IMAGES = 8
"""Of a step, whatever the number of workers that share them."""
SIZES = (1, 2, 4)
"""Images per worker."""
RATES = (3.2, 6.4, 12.8, 25.6)
"""Values of `base_lr` that the full scale chooses from, for each arm."""
TRAIN_IMAGES = 400
"""50 steps make an epoch then, after which the network is evaluated."""
HELD_OUT = 500
"""Training images that no run of the study trains on, for the choice of learning rates."""
SMOKE_IMAGES = 2 * STEP_IMAGES

_BN, _FROZEN, _GN = NormSpec("bn"), NormSpec("frozenbn"), NormSpec("gn", groups=8)
CONVERTED = "converted"
ARMS: Mapping[str, Mapping[str, Any]] = {
    CONVERTED: {"norms": {"encoder": NormSpec("gn")}, "init_norms": "convert"},
    "converted, 8 groups": {"norms": {"encoder": _GN}, "init_norms": "convert"},
    "converted, 8 groups, no offsets": {
        "norms": {"encoder": _GN},
        "init_norms": "convert",
        "init_offset_limit": 0.0,
    },
    "reset GN": {"norms": {"encoder": _GN}, "init_norms": "reset"},
    "frozen BN": {"norms": {"encoder": _FROZEN}},
    "BN trained": {"norms": {"encoder": _BN}},
    "GN from scratch": {"norms": {"encoder": _GN}, "init": None},
}
"""By arm, the fields of its configuration that are not the recipe's. The first is what the others
are compared with. Where no `init` is given, it is the classifier."""


def recipe() -> SegmentationConfig:
    """The U-Net on 400 scenes of garments-masks for 1,000 steps of 8 images, each seen 20 times.

    The decoder is new and has group norm with 8 groups, in every arm. As in other fine-tuning gamma
    and beta do not decay. The learning rate is 0.4 for the 8 images of a step, after 50 steps of
    warm-up, and falls along a cosine.
    """
    return SegmentationConfig(
        data="garments-masks",
        train_images=TRAIN_IMAGES,
        norm=_GN,
        workers=STEP_IMAGES,
        batch_per_worker=1,
        steps=1000,
        schedule="cosine",
        warmup_steps=50,
        base_lr=RATES[2],
        decay_norms=False,
        memory_format="channels_last",
        reported_epochs=1,
    )


def pretraining() -> RunConfig:
    """The classifier whose body is the encoder: batch norm over 32 images, single garments."""
    return vary(classifier(UNET_ENCODER, "fashion-scenes", 10), validation_images=None)


def fine_tuning(options: Options) -> Experiment:
    """An encoder with batch norm, trained to classify, fine-tuned to label pixels.

    `groupnorm study fine-tuning`. A step has the same 8 images at every number of images per
    worker, and the same learning rate. What has no statistics of a worker, which is all but
    trained batch norm, is trained once for all. All arms but the last start from one classifier.
    Smoke: two steps, one seed.

    Arms differ in more than their norms. Frozen batch norm does not learn gamma and beta either,
    which all other norms do. A converted encoder has biases in its convolutions, which the others
    have not, and which have weight decay. In all arms the images are normalized by the moments of
    the new data, not by those that the classifier was trained with.
    """
    scale = options.scale or next(iter(SCALES))
    base, start = recipe(), pretraining()
    if scale == "smoke":
        few = {"train_images": SMOKE_IMAGES, "validation_images": SMOKE_IMAGES}
        base = vary(base, **few, steps=2, warmup_steps=0)
        start = vary(start, **few, workers=1, batch_per_worker=8, epochs=1, evaluate_every=1)
    variants = []
    for size in SIZES:
        split = {"workers": STEP_IMAGES // size, "batch_per_worker": size}
        for arm, fields in ARMS.items():
            config = vary(base, **split, **{"init": start.run_name(), **fields})
            variants.append(Variant(config, {"arm": arm, "batch_per_worker": size}))
    return Experiment(
        title="Converted encoders fine-tuned on another task, by images per worker",
        source="this package",
        shows="fine-tuning",
        variants=tuple(variants),
        published=(),
        protocol="fixed-step",
        seeds=SEEDS[scale],
        metric=SEGMENTATION[0],
        initial=(start,),
        tune=Tune("base_lr", RATES) if scale == "full" else None,
        validation_images=HELD_OUT,
    )
