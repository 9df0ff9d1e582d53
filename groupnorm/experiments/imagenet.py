"""The paper's ImageNet experiments (Wu & He 2018, section 4.1), and two of its followers'."""

from __future__ import annotations

from groupnorm.experiments.experiment import (
    GROUP_GRID,
    Experiment,
    by_division,
    by_norm_and_size,
    smoke,
)
from groupnorm.experiments.options import Options
from groupnorm.study.plan import vary
from groupnorm.training.config import RunConfig

SIZES = (32, 16, 8, 4, 2)
SMOKE_DATA = "photo-patches"
PAPER = "Wu & He 2018"
_A_RUN = "about 27 hours on 8 V100 for each ResNet-50 (the first author's reruns)"


def recipe(model: str = "resnet50") -> RunConfig:
    """How the paper trained on ImageNet (section 4.1; what it leaves open follows fb.resnet.torch).

    8 workers, 100 epochs, learning rate 0.1 * N / 32 divided by 10 after 30, 60 and 90 epochs,
    Nesterov momentum 0.9, weight decay 1e-4 on everything, gamma = 0 on the last norm of a residual
    block, random resized crops of 224 pixels with colour jitter and PCA lighting.
    """
    return RunConfig(
        model=model,
        norm="gn",
        data="imagenet",
        image_size=224,
        workers=8,
        batch_per_worker=32,
        epochs=100,
        schedule="step",
        base_lr=0.1,
        memory_format="channels_last",
    )


def _base(options: Options, model: str = "resnet50", batch_per_worker: int = 32) -> RunConfig:
    config = vary(recipe(model), batch_per_worker=batch_per_worker)
    if options.scale == "smoke":
        return smoke(config, min(batch_per_worker, 4), SMOKE_DATA)
    return config


def batch_size(options: Options) -> Experiment:
    """ResNet-50, BN and GN, 32 to 2 images per worker (Table 2, Figures 1 and 5).

    `groupnorm study imagenet-batch-size`. Published: BN 23.6, 23.7, 24.8, 27.3, 34.7 % error and
    GN 24.1, 24.2, 24.0, 24.2, 24.1. Smoke: 4 and 2 images.
    """
    return Experiment(
        title="ResNet-50 on ImageNet by images per worker",
        source=f"{PAPER}, Table 2, Figures 1 and 5",
        result="BN 23.6 at 32 to 34.7 at 2; GN 24.1 at both",
        time=_A_RUN,
        shows="batch-size",
        variants=by_norm_and_size(
            _base(options), ("bn", "gn"), SIZES[-2:] if options.scale == "smoke" else SIZES
        ),
        published=("imagenet-batch-size", "imagenet-switchable-8-gpus", "imagenet-batch-norm-at-2"),
    )


def norms(options: Options) -> Experiment:
    """ResNet-50 with BN, LN, IN and GN at 32 images per worker (Table 1, Figure 4).

    `groupnorm study imagenet-norms`. Published: 23.6, 25.3, 28.4 and 24.1 % error. Smoke: 4 images.
    """
    base = _base(options)
    return Experiment(
        title="Four normalizations of ResNet-50 on ImageNet",
        source=f"{PAPER}, Table 1, Figure 4",
        result="BN 23.6, LN 25.3, IN 28.4, GN 24.1",
        time=_A_RUN,
        shows="norms",
        variants=by_norm_and_size(base, ("bn", "ln", "in", "gn"), (base.batch_per_worker,)),
        published=("imagenet-norms",),
    )


def groups(options: Options) -> Experiment:
    """ResNet-50 by number of groups and by channels per group (Table 3).

    `groupnorm study imagenet-groups`. Published: 24.1 with 32 groups, 24.2 with 16 channels per
    group, 25.3 with one group (LN), 28.4 with one channel per group (IN). Where the channels do not
    divide by 64, 64 groups are instance norm and 64 channels per group layer norm. Smoke: the
    extremes and the default.
    """
    values = (32, 1) if options.scale == "smoke" else GROUP_GRID
    return Experiment(
        title="Group division of ResNet-50 on ImageNet",
        source=f"{PAPER}, Table 3",
        result="best 24.1 with 32 groups, 24.2 with 16 channels per group",
        time=_A_RUN,
        shows="groups",
        variants=by_division(_base(options), values),
        published=("imagenet-groups",),
    )


def resnet101(options: Options) -> Experiment:
    """ResNet-101, BN and GN, 32 and 2 images per worker (section 4.1).

    `groupnorm study imagenet-resnet101`. Published: BN 22.0 and 31.9, GN 22.4 and 23.0 % error.
    Smoke: 4 and 2 images.
    """
    return Experiment(
        title="ResNet-101 on ImageNet",
        source=f"{PAPER}, section 4.1",
        result="BN 22.0 at 32, 31.9 at 2; GN 22.4, 23.0",
        time="about twice ResNet-50's (by FLOPs)",
        shows="batch-size",
        variants=by_norm_and_size(
            _base(options, "resnet101"),
            ("bn", "gn"),
            (4, 2) if options.scale == "smoke" else (32, 2),
        ),
        published=("imagenet-resnet101",),
    )


def vgg16(options: Options) -> Experiment:
    """VGG-16 without a norm, with BN and with GN, and the responses of conv5_3 (Figure 6).

    `groupnorm study imagenet-vgg16`. Published: 29.2, 28.0 and 27.6 % error. The record holds, for
    every epoch, the 1, 20, 80 and 99 % percentiles of the responses of conv5_3 before its norm.
    Without a norm the initial learning rate is the same; the paper does not say otherwise. Smoke: 4
    images.
    """
    base = _base(options, "vgg16")
    return Experiment(
        title="VGG-16 on ImageNet, which trains without normalization too",
        source=f"{PAPER}, section 4.1, Figure 6",
        result="none 29.2, BN 28.0, GN 27.6",
        time="about four times ResNet-50's (by FLOPs)",
        shows="norms",
        variants=by_norm_and_size(base, ("none", "bn", "gn"), (base.batch_per_worker,)),
        published=("imagenet-vgg16",),
    )


def batch_renorm(options: Options) -> Experiment:
    """ResNet-50 with batch renormalization, BN and GN at 4 images per worker (section 4.1).

    `groupnorm study imagenet-batch-renorm`. Published: 26.3, 27.3 and 24.2 % error, with the limits
    r = 1.5 and d = 0.5.
    """
    base = _base(options, batch_per_worker=4)
    return Experiment(
        title="Batch renormalization of ResNet-50 on ImageNet at 4 images per worker",
        source=f"{PAPER}, section 4.1",
        result="BRN 26.3, BN 27.3, GN 24.2",
        time=_A_RUN,
        shows="norms",
        variants=by_norm_and_size(base, ("brn", "bn", "gn"), (4,)),
        published=("imagenet-batch-renorm",),
    )


def large_batch(options: Options) -> Experiment:
    """ResNet-50 with and without weight standardization at 4096 images a step (BiT, Table 4).

    `groupnorm study imagenet-large-batch`. Published (Kolesnikov et al. 2020, arXiv 1912.11370,
    ResNet-50 v2 on 128 chips): 24.4 BN, 24.2 BN+WS, 29.8 GN, 24.0 GN+WS % error: group norm alone
    loses at large batches. Here with this package's ResNet-50, 128 workers of 32 images (bn keeps
    statistics of 32), 90 epochs and BiT's learning rate of 0.03 per 256 images with warm-up over 16
    epochs (its 5,000 steps). Smoke: 2 workers of 4 images.
    """
    base = vary(recipe(), workers=128, epochs=90, base_lr=0.03, warmup_epochs=16.0)
    if options.scale == "smoke":
        base = smoke(base, 4, SMOKE_DATA)
    return Experiment(
        title="Group norm with and without weight standardization at large batch on ImageNet",
        source="Kolesnikov et al. 2020 (BiT), Table 4",
        result="BN 24.4, BN+WS 24.2, GN 29.8, GN+WS 24.0",
        time="not measured; 90 epochs of ResNet-50 in 28,000 steps of 4096 images",
        shows="norms",
        variants=by_norm_and_size(base, ("bn", "bn+ws", "gn", "gn+ws"), (base.batch_per_worker,)),
        published=("imagenet-large-batch",),
    )
