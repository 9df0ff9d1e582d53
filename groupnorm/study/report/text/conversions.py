"""The words of a study of conversions: what the fit keeps, what others do, and fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence

from groupnorm.counts import counted
from groupnorm.study.conversions.trial import DISTILLATION, FITTED, METHODS
from groupnorm.study.results.conversions import (
    UP_TO_32,
    NetworkOutcomes,
    Outcome,
    against,
    mean_share,
)
from groupnorm.study.results.estimates import Difference, Estimate
from groupnorm.study.results.format import decimal_text, plain_text
from groupnorm.study.results.labels import interval_text

EIGHT = "gn:groups=8"
_AT = {FITTED: "with fitted groups", EIGHT: "at 8 groups",
       UP_TO_32: "with up to 32 groups of at least 4 channels"}  # fmt: skip


def conversions_text(networks: Sequence[NetworkOutcomes], trained: bool = True) -> list[str]:
    """The report's opening paragraphs.

    Args:
        trained: by the study; otherwise they are a user's own.
    """
    paragraphs = [
        _headline(networks),
        _others(networks),
        _fine_tuning(networks),
        _what_was_done(networks, trained),
        _incomplete(networks),
    ]
    return [paragraph for paragraph in paragraphs if paragraph]


def _headline(networks: Sequence[NetworkOutcomes]) -> str:
    found = {to: mean_share(networks, "fit", to) for to in (FITTED, EIGHT, UP_TO_32)}
    kept = [f"{_share(one)} {_AT[to]}" for to, one in found.items() if one is not None]
    if not kept:
        return "The fit has no result yet."
    of = f", on the mean over {counted(len(networks), 'network')}" if len(networks) > 1 else ""
    return (
        "Of the teacher's result on test images the fit keeps, without labels and without a "
        f"training step, {_listed(kept)}{of}.{_each(networks)}"
    )


def _share(found: Estimate) -> str:
    text, seeds = f"{decimal_text(found.mean)} %", counted(found.seeds, "seed")
    if found.interval is None:
        return f"{text} ({seeds}, no interval)"
    return f"{text} (95 % interval {interval_text(found.interval)}, {seeds})"


def _each(networks: Sequence[NetworkOutcomes]) -> str:
    """The networks of which less is kept than is aimed at."""
    told = []
    for network in networks:
        for to, aim in network.aims.items():
            one = network.found("fit", to)
            if one is None or one.share is None:
                continue
            if (mean := one.share.mean) < aim:
                told.append(
                    f"{decimal_text(mean)} % of {network.name} {_AT[to]} ({decimal_text(aim, 0)} "
                    "% aimed at)"
                )
    if not told:
        aimed = any(network.aims for network in networks)
        return " That is at least what is aimed at, of every network." if aimed else ""
    return f" Less than aimed at is kept: {_listed(told)}."


def _others(networks: Sequence[NetworkOutcomes]) -> str:
    told = [
        f"{METHODS[method]} {decimal_text(found.mean)} %"
        for method in ("reset", "copy", "data-free", "least squares")
        if (found := mean_share(networks, method, EIGHT))
    ]
    if not told:
        return ""
    return (
        f"At 8 groups the others keep: {', '.join(told)}. Reset gives the new norms gamma 1 and "
        "beta 0, copy the batch norm's gamma and beta: both are what other tools do. Data-free is "
        "the conversion without images, least squares the best gamma and beta behind the norm. The "
        "fit also chooses sign, scale and offset of each channel in front of it, which become part "
        "of the convolution there, and refits that convolution. No publication has such numbers "
        "that these could stand beside."
    )


def _fine_tuning(networks: Sequence[NetworkOutcomes]) -> str:
    told = []
    for network in networks:
        for start, mine in network.fine_tuned().items():
            last = mine[-1] if mine[-1].trial.steps < 100 else _at_100(mine)
            if start.method == "fit" and start.target == DISTILLATION and last is not None:
                found = against(last, network.teacher)
                if found:
                    told.append(f"{network.name} {_points(found)}")
    if not told:
        return ""
    steps = {one.trial.steps for n in networks for mine in n.fine_tuned().values() for one in mine}
    length = 100 if 100 in steps else max(steps)
    return (
        f"After {length} steps of distillation with 4 images each, which takes no labels, the "
        "result of the fit with fitted groups less that of the teacher is, in points: "
        f"{'; '.join(told)}."
    )


def _at_100(mine: Sequence[Outcome]) -> Outcome | None:
    return next((one for one in mine if one.trial.steps == 100), None)


def _points(found: Difference) -> str:
    interval = f" (95 % interval {interval_text(found.interval)})" if found.interval else ""
    return f"{plain_text(found.shown)}{interval}"


def _what_was_done(networks: Sequence[NetworkOutcomes], trained: bool) -> str:
    trials = sum(one.asked for network in networks for one in network.outcomes.values())
    images = next((network.images for network in networks if network.images), 0)
    asked = f"{counted(trials, 'trial')} with {counted(len(networks), 'network')}."
    if not trained:
        return (
            f"{asked} Conversions with data were calibrated with {images} images of the folder, "
            "without labels, and measured on others. Shares are of the result of the network "
            "before its conversion; an agreement is the share of images that get its class."
        )
    return (
        f"{asked} A teacher was trained with batch norm and kept away from a part of the training "
        f"images. Conversions with data were calibrated with {images} of these, without labels, as "
        "the test images are: without augmentation. Shares are of the teacher's result on the test "
        "images, seed by seed."
    )


def _incomplete(networks: Sequence[NetworkOutcomes]) -> str:
    every = [one for network in networks for one in network.outcomes.values()]
    failed = sum(len(one.failures) for one in every)
    missing = sum(one.asked - len(one.results) for one in every) - failed
    if not failed and not missing:
        return ""
    return (
        f"Not every trial has a result: {failed} failed and {missing} were not done. They are "
        "listed under Problems, and means are over the seeds that have one."
    )


def _listed(parts: Sequence[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last
