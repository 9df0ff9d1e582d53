"""Oxford-IIIT Pets from scratch: a small data set, one or four images a step."""

from __future__ import annotations

from groupnorm.experiments.experiment import Experiment, by_norm_and_size, smoke
from groupnorm.experiments.options import Options
from groupnorm.study.tuning import Tune
from groupnorm.training.config import RunConfig

LEARNING_RATES: tuple[float, ...] = (0.1, 0.4, 1.6)
"""Per 256 images; every norm is tried with each of them at each batch size."""
SIZES: tuple[int, ...] = (4, 1)
NORMS = ("bn", "gn", "gn+ws")


def recipe(depth: int) -> RunConfig:
    """25 epochs from scratch on one worker, 224 pixels, the paper's augmentation, cosine schedule.

    A public notebook (see `pets`) has Adam at 1e-3 for every norm and batch size, and cutout.
    """
    return RunConfig(
        model=f"resnet{depth}",
        norm="gn",
        data="pets",
        image_size=224,
        workers=1,
        batch_per_worker=4,
        epochs=25,
        schedule="cosine",
        warmup_epochs=1.0,
        base_lr=LEARNING_RATES[0],
        memory_format="channels_last",
    )


def pets(options: Options, depth: int) -> Experiment:
    """ResNet-34 or ResNet-50 on Pets with BN, GN and GN+WS at 4 images and at 1.

    `groupnorm study pets-resnet34`, `pets-resnet50`. Published (A. Arora's notebooks of 2020,
    ResNet-34, Adam, one run, best epoch): error 63.5 BN, 85.1 GN, 65.4 GN+WS at 4 images; 92.3 BN,
    78.8 GN+WS at 1. There no norm was tuned; here each norm has the best of the same three learning
    rates at each batch size, by its error on validation images. Smoke: 1 image, two rates.
    """
    base, sizes, rates = recipe(depth), SIZES, LEARNING_RATES
    if options.scale == "smoke":
        base, sizes, rates = smoke(base, 1, "photo-patches"), (1,), LEARNING_RATES[:2]
    return Experiment(
        title=f"ResNet-{depth} on Oxford-IIIT Pets from scratch, tuned learning rates",
        source="A. Arora 2020, notebooks (ResNet-34)",
        result="at 4 images BN 63.5, GN 85.1, GN+WS 65.4; at 1 BN 92.3, GN+WS 78.8",
        time="not measured",
        shows="batch-size",
        variants=by_norm_and_size(base, NORMS, sizes),
        published=("pets-notebook", "pets-notebook-ws"),
        tune=Tune("base_lr", rates),
    )
