"""Batch norm networks converted to group norm: what each way of converting keeps of them.

Teachers are trained as runs of the study. Trials then convert each of them by every method and
number of groups; two of the networks also have single parts of the method taken away, other
numbers of calibration images, and fine-tuning at 4 images a step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import NamedTuple

from groupnorm.experiments.experiment import Experiment, Variant
from groupnorm.experiments.options import Options
from groupnorm.spec import NormSpec
from groupnorm.study.conversions.trial import (
    DISTILLATION,
    FITTED,
    LABELS,
    WITH_IMAGES,
    NetworkTrials,
    Trial,
)
from groupnorm.study.plan import vary
from groupnorm.training.config import RunConfig, SegmentationConfig, TrainingConfig
from groupnorm.training.metric import SEGMENTATION

SCALES = {
    "quick": "a ResNet-20 and a MobileNet, one seed, few trials, under ten minutes",
    "full": "seven networks, three seeds, about an hour and a half",
    "smoke": "two steps of a small network, a minute or two",
}
SEEDS = {"quick": 1, "full": 3, "smoke": 1}
HELD_OUT = 1024
"""Training images that no network is trained on. Some of them calibrate conversions, without their
labels; with all of them rates of fine-tuning are chosen."""
EIGHT, UP_TO_32, ONE_CHANNEL = "gn:groups=8", "gn:groups=32", "gn:size=1"
FOUR_CHANNELS = (UP_TO_32, FITTED)
"""What leaves at least 4 channels in each group; fixed numbers of groups leave what they leave."""
NAIVE, METHODS = ("reset", "copy"), ("data-free", "least squares", "fit")
PARTS = ("no signs", "no scales", "no offsets", "small offsets", "no descent", "no refit")
FINE_TUNED = (
    ("fit", FITTED, LABELS),
    ("fit", FITTED, DISTILLATION),
    ("least squares", "gn:groups=8", DISTILLATION),
    ("reset", "gn:groups=8", LABELS),
    ("scratch", "gn:groups=8", LABELS),
    ("frozen BN", "", LABELS),
    ("BN", "", LABELS),
)
"""What is fine-tuned, and to what."""


AIMS = {FITTED: 99.0, EIGHT: 97.0, UP_TO_32: 96.0}
"""Percent of the teacher's result that the fit is meant to keep."""
AIMS_DEPTHWISE = {FITTED: 95.0}
"""The same of a network with depthwise convolutions."""


@dataclass(frozen=True)
class Grid:
    """Which trials there are.

    Attributes:
        groups: numbers of groups of every method.
        fewer_groups: the same of networks with which not all kinds of trials are done.
        images: to calibrate with.
        other_images: other numbers of them, for the fit at 8 groups.
        steps: lengths of fine-tuning, 4 images a step.
        rates: peak learning rates of it. The report shows the better one of each start, by the
            images held out.
    """

    groups: tuple[str, ...]
    fewer_groups: tuple[str, ...]
    images: int
    other_images: tuple[int, ...]
    steps: tuple[int, ...]
    rates: tuple[float, ...]


FULL = Grid(
    groups=(*(f"gn:groups={number}" for number in (1, 2, 4, 8, 16)), ONE_CHANNEL),
    fewer_groups=(*(f"gn:groups={number}" for number in (1, 4, 8, 16)), ONE_CHANNEL),
    images=128,
    other_images=(8, 32, 512),
    steps=(10, 30, 100, 300),
    rates=(1e-3, 1e-2),
)
GRIDS = {
    "quick": replace(
        FULL, groups=("gn:groups=1", "gn:groups=8", ONE_CHANNEL), other_images=(8,), steps=(10, 100)
    ),
    "full": FULL,
    "smoke": Grid(("gn:groups=2",), (), 16, (), (2,), (1e-3,)),
}


OWN_IMAGES = (128, 256)
"""Of a user's own network: images to calibrate with, and to measure on, at most."""


class Network(NamedTuple):
    """A network that is converted.

    Attributes:
        whole: whether all kinds of trials are done with it.
    """

    name: str
    config: TrainingConfig
    whole: bool
    aims: Mapping[str, float]


def classifier(model: str, data: str, epochs: int) -> RunConfig:
    """A classifier with batch norm over 32 images, by the recipe of the quick scale of studies.

    6,000 training images, which are smaller in the first part of the run; a cosine.
    """
    return RunConfig(
        model=model,
        zero_gamma=False,
        data=data,
        train_images=6000,
        validation_images=HELD_OUT,
        norm=NormSpec("bn"),
        workers=1,
        batch_per_worker=32,
        epochs=epochs,
        schedule="cosine",
        base_lr=0.8,
        memory_format="channels_last",
        size_schedule=((16, 0.3), (24, 0.7)),
        reported_epochs=1,
        evaluate_every=epochs,
    )


def unet() -> SegmentationConfig:
    """A small U-Net with batch norm over 16 images, for the kinds of garments at every pixel."""
    return SegmentationConfig(
        data="garments-masks",
        validation_images=HELD_OUT,
        norm=NormSpec("bn"),
        workers=1,
        batch_per_worker=16,
        epochs=12,
        schedule="cosine",
        base_lr=3.2,
        warmup_steps=50,
        memory_format="channels_last",
        reported_epochs=1,
        evaluate_every=12,
    )


def conversion(options: Options) -> Experiment:
    """What reset, copied, folded and fitted group norms keep of networks with batch norm.

    `groupnorm study convert`. Smoke: a small network after two steps of training, few trials.
    """
    scale = options.scale or next(iter(SCALES))
    networks = networks_of(scale)
    return Experiment(
        title="Batch norm networks converted to group norm",
        source="no publication has such a table",
        shows="conversions",
        variants=tuple(Variant(one.config, {"network": one.name}) for one in networks),
        published=(),
        protocol="fixed-step",
        seeds=SEEDS[scale],
        also=SEGMENTATION[:1] if any(one.config.task == "segmentation" for one in networks) else (),
        conversions={
            one.name: NetworkTrials(tuple(trials_of(GRIDS[scale], one.whole)), one.aims)
            for one in networks
        },
    )


def networks_of(scale: str) -> list[Network]:
    """The networks of a scale; those with all kinds of trials are first."""
    if scale == "smoke":
        return [Network("ResNet-8 on digits", _smoke(), True, AIMS)]
    models = {"ResNet-20": "resnet20", "MobileNet": "mobilenet_narrow"}
    if scale == "full":
        models["Pre-activation ResNet-20"] = "preact_resnet20"
    aims = {name: AIMS_DEPTHWISE if name == "MobileNet" else AIMS for name in models}
    found = [
        Network(f"{name} on Fashion-MNIST", classifier(model, "fashion-mnist-mini", 6),
                name in ("ResNet-20", "MobileNet"), aims[name])
        for name, model in models.items()
    ]  # fmt: skip
    if scale == "full":
        found += [
            Network(f"{name} on scenes", classifier(model, "fashion-scenes", 10), False, aims[name])
            for name, model in models.items()
        ]
        found.append(Network("U-Net on garments", unet(), False, AIMS))
    return found


def _smoke() -> RunConfig:
    base = classifier("resnet8", "digits", 1)
    few = {"train_images": 64, "validation_images": 32, "epochs": None, "steps": 2}
    return vary(base, **few, width=0.25, size_schedule=(), evaluate_every=1)


def trials_of(grid: Grid, whole: bool) -> Iterable[Trial]:
    """The trials of a network.

    Args:
        whole: also with parts of the method taken away, with other numbers of images and with
            every fine-tuning; without, one length of distillation.
    """
    yield Trial("teacher")
    groups = grid.groups if whole else grid.fewer_groups
    for method in (*NAIVE, *METHODS):
        for to in groups:
            yield _trial(grid, method, to)
        yield _trial(grid, method, UP_TO_32)
        if method in METHODS:
            yield _trial(grid, method, FITTED)
    if whole:
        for part in PARTS:
            yield _trial(grid, f"fit, {part}", EIGHT)
        if EIGHT not in groups:
            yield _trial(grid, "fit", EIGHT)
        for images in grid.other_images:
            yield replace(_trial(grid, "fit", EIGHT), images=images)
    starts = FINE_TUNED if whole else [("fit", FITTED, DISTILLATION)]
    lengths = grid.steps if whole else [steps for steps in grid.steps if steps >= 100][:1]
    for (method, to, target), steps, rate in product(starts, lengths, grid.rates):
        yield replace(_trial(grid, method, to), steps=steps, target=target, rate=rate)


def _trial(grid: Grid, method: str, to: str) -> Trial:
    least = 4 if to in FOUR_CHANNELS else 1
    return Trial(method, to, least, grid.images if method in WITH_IMAGES else 0)


def own_trials(images: int) -> NetworkTrials:
    """The trials of a user's own network: every method by number of groups, without training.

    Args:
        images: to calibrate with.
    """
    grid = replace(FULL, images=min(images, FULL.images), rates=())
    return NetworkTrials(tuple(trials_of(grid, whole=False)))
