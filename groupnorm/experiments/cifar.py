"""CIFAR-10 with deep residual networks, in both learning-rate conventions that are in use."""

from __future__ import annotations

from typing import Literal

from groupnorm.experiments.experiment import (
    GROUP_GRID,
    Experiment,
    by_division,
    by_norm_and_size,
    smoke,
)
from groupnorm.experiments.options import Options
from groupnorm.training.config import RunConfig

SMOKE_DATA = "digits"
GN = "gn:groups=8"
Convention = Literal["per-256", "per-32"]
"""What 0.1 belongs to: the paper's 256 images of 8 workers of 32 ("per-256"), or 32 images of a
single worker ("per-32"), as in copies that kept the formula 0.1 * N / 32 and dropped the workers:
eight times hotter per image."""
_SIZES: dict[Convention, tuple[int, ...]] = {
    "per-256": (32, 16, 8, 4, 2),
    "per-32": (256, 128, 64, 32, 16, 8),
}
CONVENTIONS: dict[str, Convention] = {"": "per-256", "-one-worker": "per-32"}
"""By the end of an experiment's name."""
_SEEDS = 3
_SECONDS = {56: 6.6, 110: 13.4}
"""Estimated seconds of one core for 1,000 training images, by depth: those of ResNet-8 with group
norm in `results/bench-training-*` (C++ kernels, channels_last), times the ratio of the FLOPs of a
training step. No run on CIFAR-10 has been timed."""
_NORMS: dict[Convention, tuple[str, ...]] = {
    "per-256": ("bn", GN, f"{GN}+ws", "ln", "in"),
    "per-32": ("bn", "gn:groups=16", "ln", "in", "in:affine=false"),
}


def recipe(depth: int, convention: Convention = "per-256") -> RunConfig:
    """The paper's schedule on CIFAR-10: 100 epochs, divided by 10 after 30, 60 and 90.

    "per-256" has 8 workers, so that a step sees 8 N images; "per-32" one worker and N images, as
    the course project in `batch_size`, and with it shortcut B and momentum without Nesterov. The
    learning rate is 0.1 * N / 32 in both. ResNet-110 warms up for an epoch (He et al. 2016, section
    4.2, warm it up for 400 steps).
    """
    of_the_paper = convention == "per-256"
    workers, base_lr = (8, 0.1) if of_the_paper else (1, 0.8)
    return RunConfig(
        model=f"resnet{depth}",
        norm=GN,
        data="cifar10",
        workers=workers,
        batch_per_worker=32,
        epochs=100,
        schedule="step",
        warmup_epochs=1.0 if depth == 110 else 0.0,
        base_lr=base_lr,
        nesterov=of_the_paper,
        shortcut="A" if of_the_paper else "B",
        memory_format="channels_last",
    )


def batch_size(options: Options, depth: int, convention: Convention) -> Experiment:
    """CIFAR-10 ResNet by images per worker: BN, GN, LN and IN.

    `groupnorm study cifar10-resnet56-batch-size`, `cifar10-resnet110-batch-size`, and with
    `-one-worker` the convention "per-32". Published for ResNet-56 in that convention (a course
    project, digitised): BN 7.5 at 32, 7.2 at 8; GN (16 groups) 9.5 and 8.85. LN here is one group
    and IN has scale and shift; that project's "LN" is such an IN, its "IN" has no scale and shift,
    and is `in:affine=false` here. For ResNet-110 only single results are published. Smoke: 4 and 2
    images.
    """
    base = recipe(depth, convention)
    sizes = _SIZES[convention]
    if options.scale == "smoke":
        base, sizes = smoke(base, 4, SMOKE_DATA), (4, 2)
    published = {
        56: ("cifar10-resnet56-batch-size", "cifar10-he2016"),
        110: ("cifar10-resnet110-author", "cifar10-he2016"),
    }
    words = {
        "per-256": "8 workers, lr 0.1 per 256 images",
        "per-32": "one worker, lr 0.1 per 32 images",
    }[convention]
    return Experiment(
        title=f"ResNet-{depth} on CIFAR-10 by images per worker ({words})",
        source={
            56: "CharlesJWC/GroupNorm-pytorch, report; recipe of Wu & He 2018",
            110: "He et al. 2016, Table 6; ppwwyyxx/GroupNorm-reproduce, README",
        }[depth],
        result={56: "one worker: BN 7.5, GN 9.5 at 32", 110: "BN 6.4 (He), GN 7.3"}[depth],
        time=_time(depth, len(_NORMS[convention]) * len(_SIZES[convention]) * _SEEDS),
        shows="batch-size",
        variants=by_norm_and_size(base, _NORMS[convention], sizes),
        published=published[depth],
        seeds=1 if options.scale == "smoke" else _SEEDS,
    )


def groups(options: Options, depth: int, convention: Convention) -> Experiment:
    """CIFAR-10 ResNet at 32 images per worker by groups and by channels per group.

    `groupnorm study cifar10-resnet56-groups`, `cifar10-resnet110-groups`, and with `-one-worker`
    the convention "per-32". Published for ResNet-56 in that convention: 9.5, 9.9, 10.3, 11.2 and
    12.3 % error with 16, 8, 4, 2 and 1 groups; one group is LN, whatever its label there. Smoke:
    the extremes.
    """
    base = recipe(depth, convention)
    values: tuple[int, ...] = GROUP_GRID[2:]  # the first stage has 16 channels
    if options.scale == "smoke":
        base, values = smoke(base, 4, SMOKE_DATA), (16, 1)
    words = {"per-256": "8 workers", "per-32": "one worker"}[convention]
    return Experiment(
        title=f"Group division of ResNet-{depth} on CIFAR-10 ({words})",
        source={
            56: "CharlesJWC/GroupNorm-pytorch, report",
            110: "Wu & He 2018, Table 3, on CIFAR-10",
        }[depth],
        result={56: "one worker: 9.5 with 16 groups to 12.3 with 1", 110: "none"}[depth],
        time=_time(depth, 2 * len(GROUP_GRID[2:]) * _SEEDS),
        shows="groups",
        variants=by_division(base, values),
        published=("cifar10-resnet56-groups",) if depth == 56 else (),
        seeds=1 if options.scale == "smoke" else _SEEDS,
    )


def _time(depth: int, runs: int) -> str:
    """How long a study takes, and what that rests on."""
    evaluation = _SECONDS[depth] / 3  # the share of the forward pass in a training step's FLOPs
    hours = 100 * (50 * _SECONDS[depth] + 10 * evaluation) / 3600
    return (
        f"about {runs * hours / 2 / 24:.0f} days on two cores, {hours:.0f} hours of one core a run "
        "(not measured: estimated by FLOPs from the speed of ResNet-8 in results/bench-training-*, "
        f"{_SECONDS[depth]:g} s for 1,000 training images); not measured on a GPU either, where "
        "docs/recipes.md has a lower bound"
    )
