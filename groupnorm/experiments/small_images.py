"""Comparisons on small images (28 to 32 pixels), in minutes, and their recipes at three scales.

A recipe is one configuration; a comparison varies its norm, its batch size and its seed. No norm
has a learning rate, schedule or initialization of its own.
"""

from __future__ import annotations

from collections.abc import Callable

from groupnorm.data import DEFAULT
from groupnorm.experiments.experiment import (
    GROUP_GRID,
    Experiment,
    by_division,
    cross,
    norm_axis,
)
from groupnorm.experiments.options import Options
from groupnorm.models import channel_widths, usual_images
from groupnorm.study.plan import PlanError, ReportKind, vary
from groupnorm.training.config import RunConfig

SCALES = {
    "quick": "minutes, three seeds",
    "standard": "more batch sizes, three seeds",
    "paper": "the paper's grid, one seed",
}
PAPER_WORKERS = 8

STEP_IMAGES = 32
"""Images of a step under the fixed-step protocol."""
QUICK_IMAGES = 6000
"""Training images of the quick and standard scales, of the data sets that they were made for."""
QUICK_SETS = ("fashion-scenes", "fashion-mnist-mini", "fashion-mnist", "cifar10", "cifar100")
"""Those data sets, of 28 or 32 pixels; of every other one all training images are used, at their
own size throughout."""


def quick(data: str = DEFAULT, epochs: int = 12) -> RunConfig:
    """ResNet-8 in half a minute of one CPU core: the scale of the default study.

    Few steps have to do, which decides where it differs from the paper, for every norm alike. The
    learning rate is 0.1 for the 32 images of a step, far above the paper's. gamma is 1 on the last
    norm of a block: with the paper's 0 each of the three blocks starts as its shortcut, and the
    network stays near chance for its first epochs. Training images begin at 16 pixels and end at
    their own size. The learning rate falls to 0, so that the last epoch is the reported one.
    """
    known = data in QUICK_SETS
    return RunConfig(
        model="resnet8",
        zero_gamma=False,
        data=data,
        train_images=QUICK_IMAGES if known else None,
        norm="gn:groups=8",
        workers=STEP_IMAGES // 32,
        batch_per_worker=32,
        epochs=epochs,
        schedule="cosine",
        base_lr=0.8,
        memory_format="channels_last",
        size_schedule=((16, 0.3), (24, 0.7)) if known else (),
        reported_epochs=1,
        evaluate_every=2,
    )


def standard(data: str = DEFAULT, epochs: int = 12) -> RunConfig:
    """The quick recipe; a study of this scale adds batch sizes and seeds, not epochs."""
    return quick(data, epochs)


def paper(data: str = DEFAULT, epochs: int = 100) -> RunConfig:
    """The paper's ImageNet recipe (Wu & He 2018, section 4.1) on a CIFAR-type ResNet-20.

    8 workers, 32 images each, 100 epochs, learning rate 0.1 * N / 32 divided by 10 after 30, 60
    and 90 epochs, Nesterov momentum 0.9, weight decay 1e-4 on everything.
    """
    return RunConfig(
        model="resnet20",
        data=data,
        norm="gn:groups=8",
        workers=8,
        batch_per_worker=32,
        epochs=epochs,
        schedule="step",
        base_lr=0.1,
        memory_format="channels_last",
    )


_RECIPES: dict[str, Callable[[str], RunConfig]] = {
    "quick": quick,
    "standard": standard,
    "paper": paper,
}
GN = "gn:groups=8"
"""Group norm of the CIFAR-type networks: their first stage has 16 channels, so that the paper's
32 groups would be instance norm in half of the layers. 8 is the author's own choice for CIFAR."""

_BATCH_SIZES = {"quick": (32, 8, 2), "standard": (32, 16, 8, 4, 2), "paper": (32, 16, 8, 4, 2)}
_PROTOCOLS = {"quick": "fixed-step", "standard": "fixed-step", "paper": "paper"}
_SEEDS = {"quick": 3, "standard": 3, "paper": 1}
_NORMS = {"quick": ("bn", GN, f"{GN}+ws"), "standard": ("bn", GN, f"{GN}+ws"), "paper": ("bn", GN)}


def batch_size(options: Options) -> Experiment:
    """Error against images per worker (the paper's Table 2 and Figures 1 and 5)."""
    scale, base, protocol = _begin(options)
    sizes = sorted(options.batch_sizes or _BATCH_SIZES[scale], reverse=True)
    shows: ReportKind = "batch-size" if len(sizes) > 1 else "norms"
    return Experiment(
        title="Error against batch size per worker",
        source="Wu & He 2018, Table 2, on small images",
        shows=shows,
        published=(f"imagenet-{shows}",),
        variants=cross(
            base,
            norm_axis(options.norms or _NORMS[scale]),
            [batch_fields(size, protocol) for size in sizes],
        ),
        protocol=protocol,
        seeds=_SEEDS[scale],
    )


def norms(options: Options) -> Experiment:
    """Training and validation curves of BN, LN, IN and GN at one batch size (Figure 4, Table 1)."""
    scale, base, protocol = _begin(options)
    size = _one_size(options)
    return Experiment(
        title=f"Normalizations at {size} images per worker",
        source="Wu & He 2018, Table 1 and Figure 4, on small images",
        shows="norms",
        published=("imagenet-norms",),
        variants=cross(
            base,
            norm_axis(options.norms or ("bn", "ln", "in", GN)),
            [batch_fields(size, protocol)],
        ),
        protocol=protocol,
        seeds=_SEEDS[scale],
    )


def groups(options: Options) -> Experiment:
    """Error against the number of groups and channels per group, 64 to 1 (Table 3).

    What a layer's width cannot be divided into is skipped, with the reason.
    """
    scale, base, protocol = _begin(options)
    size = _one_size(options)
    widths = channel_widths(base.model, base.width)
    variants, skipped = [], []
    for variant in by_division(vary(base, **batch_fields(size, protocol)), GROUP_GRID):
        division, value = variant.labels["division"], variant.labels["value"]
        misfit = [width for width in widths if width % value]
        if not misfit:
            variants.append(variant)
            continue
        parts = f"{value} groups" if division == "groups" else f"groups of {value}"
        skipped.append((variant, f"{misfit[0]} channels cannot be divided into {parts}"))
    return Experiment(
        title=f"Group division at {size} images per worker",
        source="Wu & He 2018, Table 3, on small images",
        shows="groups",
        published=("imagenet-groups",),
        variants=tuple(variants),
        skipped=tuple(skipped),
        protocol=protocol,
        seeds=_SEEDS[scale],
    )


def batch_fields(batch_per_worker: int, protocol: str) -> dict[str, int]:
    """The fields `workers` and `batch_per_worker` of a batch size under a protocol.

    `paper`: 8 workers, so a step sees 8 N images and the learning rate follows N. `fixed-step`: a
    step sees the same images whatever N is, split into chunks of N.

    Raises:
        PlanError: N does not divide the step's images.
    """
    if protocol == "paper":
        return {"workers": PAPER_WORKERS, "batch_per_worker": batch_per_worker}
    if STEP_IMAGES % batch_per_worker:
        raise PlanError(
            f"under the fixed-step protocol a batch size must divide the {STEP_IMAGES} images of "
            f"a step, {batch_per_worker} does not; choose from 32, 16, 8, 4, 2 or use "
            "--protocol paper"
        )
    return {"workers": STEP_IMAGES // batch_per_worker, "batch_per_worker": batch_per_worker}


def _begin(options: Options) -> tuple[str, RunConfig, str]:
    """The scale, its recipe with the user's model and data, and the protocol.

    Under the paper's protocol gamma and the images' size are the paper's at every scale.
    """
    scale = options.scale or next(iter(SCALES))
    protocol = options.protocol or _PROTOCOLS[scale]
    recipe = _RECIPES[scale](options.data or DEFAULT)
    base = vary(recipe, size_schedule=(), **options.of_the_run())
    if protocol == "paper":
        base = vary(base, zero_gamma=True)
    elif usual_images(base.model).size == 32:  # those for large images take none of 16 pixels
        base = vary(base, size_schedule=recipe.size_schedule)
    return scale, base, protocol


def _one_size(options: Options) -> int:
    sizes = options.batch_sizes or (32,)
    if len(sizes) != 1:
        raise PlanError(
            f"this study has one batch size, got {', '.join(map(str, sizes))}; "
            "use 'groupnorm study batch-size' to compare several"
        )
    return sizes[0]
