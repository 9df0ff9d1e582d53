"""Video classifiers of moving garments: batch norm and group norm by clips per worker and frames.

The paper's experiment with videos in small (Wu & He 2018, section 4.3): memory goes into more clips
per worker or into longer clips, and batch norm needs the clips. Short and long clips are as long a
part of the video; the long ones have twice the frame rate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from groupnorm.experiments.experiment import Experiment, Variant, cross, norm_axis
from groupnorm.experiments.options import Options
from groupnorm.spec import NormSpec
from groupnorm.study.plan import Finding, vary
from groupnorm.training.config import VideoConfig
from groupnorm.training.metric import VIDEO

SCALES = {
    "quick": "clips of 16 pixels, three seeds, minutes",
    "standard": "also with weight standardization, five seeds, half an hour to an hour",
    "larger": "clips of 24 pixels, five seeds, 20 to 45 minutes",
    "smoke": "two steps of each run, a minute or two",
}
SEEDS = {"quick": 3, "standard": 5, "larger": 5, "smoke": 1}
STEP_CLIPS = 16
"""Clips of a step, whatever the number of workers that share them."""
SIZES = (8, 4, 2)
SHORT: dict[str, Any] = {"frames": 8, "stride": 2}
LONG: dict[str, Any] = {"frames": 16, "stride": 1}
PLAIN = (NormSpec("gn", size=8), NormSpec("bn"))
WITH_WS = (NormSpec("gn", size=8, ws=True), NormSpec("bn", ws=True))
SMOKE_CLIPS = {"train_images": STEP_CLIPS, "validation_images": 10, "test_clips": 2}

EQUAL_WITHIN = 0.75
"""Points: half of what GN gains in the paper where BN gains nothing, from 73.0 to 74.5 %."""

_PAPER = "Wu & He 2018, Table 8"
_AT_8, _AT_4, _AT_4_LONG = (8, SHORT), (4, SHORT), (4, LONG)
_STATEMENTS = (
    ("GN gains from longer clips", "72.8 to 74.5 % at 4 clips", ("gn", _AT_4_LONG), ("gn", _AT_4)),
    ("BN gains from longer clips at 4 clips per worker", "72.1 to 73.3 %",
     ("bn", _AT_4_LONG), ("bn", _AT_4)),
    ("BN loses from 8 to 4 clips per worker, short clips", "73.3 to 72.1 %",
     ("bn", _AT_8), ("bn", _AT_4)),
    ("BN is above GN at 8 clips per worker, short clips", "73.3 and 73.0 %",
     ("bn", _AT_8), ("gn", _AT_8)),
    ("GN is above BN at 4 clips per worker, short clips", "72.8 and 72.1 %",
     ("gn", _AT_4), ("bn", _AT_4)),
    ("GN is above BN at 4 clips per worker, long clips", "74.5 and 73.3 %",
     ("gn", _AT_4_LONG), ("bn", _AT_4_LONG)),
)  # fmt: skip
"""What was published of plain norms, with its numbers, and the better and the worse cell by it."""


def quick() -> VideoConfig:
    """A narrow network on clips of 16 pixels, 16 a step for 900 steps.

    Where it differs from the paper it does so for every norm alike. Networks start from random
    weights: there is no classifier of images to inflate. So gamma and beta decay too, as in the
    paper's other networks that start so. Each pixel has its mean over the clip's frames subtracted:
    as long as the still picture is in the input, plain norms stay near chance.
    The learning rate is 0.05 for the 16 clips of a step and falls along a cosine. 900 steps see
    each video about once; only then the test videos are evaluated, each by three clips: those that
    start at frames 0, 2 and 4 of its 20, whatever their length. No short one of them has a frame
    that another one skips.
    """
    return VideoConfig(
        model="i3d_narrow",
        norm=PLAIN[0],
        data="garments-motion",
        centre_time=True,
        test_clips=3,
        workers=STEP_CLIPS // SIZES[0],
        batch_per_worker=SIZES[0],
        steps=900,
        schedule="cosine",
        warmup_steps=50,
        base_lr=0.2,
        decay_norms=True,
        memory_format="channels_last",
        evaluate_every=3,
        **LONG,
    )


def standardized() -> VideoConfig:
    """The same with input as it is and twice the steps, for norms with weight standardization.

    Filters whose mean is zero leave out most of the still picture by themselves. After 900 steps
    these networks are still in the middle of their learning.
    """
    return vary(quick(), norm=WITH_WS[0], centre_time=False, steps=2 * (quick().steps or 0))


def video(options: Options) -> Experiment:
    """Group norm and batch norm at 8, 4 and 2 clips per worker, short and long clips.

    `groupnorm study video`. A step has the same clips at every number per worker, so that group
    norm, which has no statistics of a worker, is trained once for all. A study of scale `standard`
    adds both norms with weight standardization, on other input and longer. Two classes are aliases
    in short clips, which no network can tell apart there. Smoke: two steps, one seed.
    """
    scale = options.scale or next(iter(SCALES))
    base = quick()
    if scale == "larger":
        base = vary(base, data="garments-motion-24")
    if scale == "smoke":
        base = vary(base, steps=2, warmup_steps=0, **SMOKE_CLIPS)
    variants = _variants(base, PLAIN)
    if scale == "standard":
        variants += _variants(standardized(), WITH_WS)
    experiment = Experiment(
        title="Video classifiers by norm, clips per worker and length of clips",
        source=f"{_PAPER}, on small clips",
        shows="clips",
        variants=tuple(variants),
        published=("kinetics-clips",),
        protocol="fixed-step",
        seeds=SEEDS[scale],
        metric=VIDEO[0],
        also=VIDEO[1:4],
    )
    return replace(experiment, findings=_findings(experiment))


def _variants(base: VideoConfig, norms: Iterable[NormSpec]) -> list[Variant]:
    """Every norm with short and with long clips at every number of clips per worker."""
    sizes = [{"workers": STEP_CLIPS // size, "batch_per_worker": size} for size in SIZES]
    centred = "centred over time" if base.centre_time else "as it is"
    labels = {"training": f"{base.steps:,} steps, input {centred}"}
    found = cross(base, norm_axis(norms), [SHORT, LONG], sizes)
    return [replace(variant, labels=labels) for variant in found]


def _findings(experiment: Experiment) -> tuple[Finding, ...]:
    """What was published, about the cells of plain norms."""
    labels = [experiment.labels(variant) for variant in experiment.variants]
    plain = {norm.kind: str(norm) for norm in PLAIN}

    def cell(kind: str, where: tuple[int, Mapping[str, int]]) -> dict[str, Any]:
        size, length = where
        wanted = {"norm": plain[kind], "batch_per_worker": size, **length}
        return next(one for one in labels if wanted.items() <= one.items())

    found = [
        Finding(statement, f"{_PAPER}: {numbers}", cell(*better), cell(*worse))
        for statement, numbers, better, worse in _STATEMENTS
    ]
    gn, bn = (
        {"better": cell(kind, _AT_4_LONG), "worse": cell(kind, _AT_8)} for kind in ("gn", "bn")
    )
    equal = Finding(
        f"BN is equal within {EQUAL_WITHIN:g} points in short clips, 8 per worker, and in long "
        "ones, 4 per worker",
        f"{_PAPER}: 73.3 and 73.3 %",
        bn["better"],
        bn["worse"],
        within=EQUAL_WITHIN,
    )
    more = Finding(
        "GN gains more than BN from half as many clips of twice the frames",
        f"{_PAPER}: 73.0 to 74.5 % and 73.3 to 73.3 %",
        gn["better"],
        gn["worse"],
        than=bn,
    )
    return (*found, equal, more)
