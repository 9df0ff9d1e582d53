"""The tables of a study of conversions."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from groupnorm.counts import counted
from groupnorm.study.conversions.trial import FITTED, METHODS, Trial
from groupnorm.study.report.markup import MarkedTable
from groupnorm.study.results.conversions import (
    NetworkOutcomes,
    Outcome,
    against,
    group_columns,
    groups_name,
)
from groupnorm.study.results.estimates import Difference
from groupnorm.study.results.format import decimal_text, plain_text, seconds_text
from groupnorm.study.results.labels import NOTHING, estimate_text, interval_text

EIGHT = "gn:groups=8"
TITLES = {
    "kept": "Kept in percent",
    "fits": "The fit",
    "parts": "The fit without one of its parts",
    "images": "Number of calibration images",
    "steps": "Fine-tuning at 4 images a step",
}
"""Of the tables on the page, by their names."""


def conversion_tables(networks: Sequence[NetworkOutcomes]) -> list[MarkedTable]:
    """Those that have any lines; the first is the main one."""
    tables = [
        kept_table(networks),
        fit_table(networks),
        parts_table(networks),
        images_table(networks),
        steps_table(networks),
    ]
    return [table for table in tables if table.body]


def kept_table(networks: Sequence[NetworkOutcomes]) -> MarkedTable:
    """Percent of the teacher's score that is kept, by method and number of groups."""
    columns = group_columns(networks)
    body = []
    for network in networks:
        for method in dict.fromkeys(one.trial.method for one in network.grid):
            cells = [share_text(network.found(method, to)) for to in columns]
            body.append([network.name, METHODS[method], *cells])
    heads = [_groups_text(to) for to in columns]
    return MarkedTable(
        "kept",
        "Percent of the teacher's accuracy that is kept (of its mean IoU, where pixels have "
        "classes), without labels and without a training step"
        f"{_over_seeds(networks)}. Up to 32: as many groups as leave 4 channels in each. Fitted: "
        "as many as the conversion chooses, without data at least 16 channels in each",
        ["network", "method", *heads],
        body,
    )


def fit_table(networks: Sequence[NetworkOutcomes]) -> MarkedTable:
    """The networks, and what the fit keeps of each beside what it is meant to keep."""
    aims = list(dict.fromkeys(to for network in networks for to in network.aims))
    body = []
    for network in networks:
        teacher = network.teacher
        found = network.found("fit", FITTED)
        body.append(
            [
                network.name,
                network.score_name,
                estimate_text(teacher.score),
                _agreement(found),
                _groups_found(found),
                _offset_share(found),
                *(_aimed(network, to) for to in aims),
                _seconds(found),
            ]
        )
    return MarkedTable(
        "fits",
        "The fit with fitted groups: percent of the test examples with the teacher's "
        "class, layers by number of groups in the first seed, and the part of a group's variance "
        "that offsets make, the mean over layers and seeds; and the share of the teacher's result "
        f"that is kept{_over_seeds(networks)}, with what is aimed at in brackets",
        [
            "network", "measured", "teacher (%)", "agreement (%)", "groups", "offset share",
            *(f"kept (%): {groups_name(to)}" for to in aims), "seconds",
        ],
        body,
    )  # fmt: skip


def parts_table(networks: Sequence[NetworkOutcomes]) -> MarkedTable:
    """What the fit keeps when a part of it is taken away, and the difference to the whole."""
    studied = [network for network in networks if network.without_parts(EIGHT)]
    body = []
    for network in studied:
        whole = network.found("fit", EIGHT) or _plain_fit(network)
        body.append(
            [network.name, "the whole", share_text(whole), _offset_share(whole), NOTHING, NOTHING]
        )
        for part in [*network.without_parts(EIGHT), network.found("least squares", EIGHT)]:
            if part is not None:
                lost = against(part, whole) if whole else None
                cells = [share_text(part), _offset_share(part), *_difference_cells(lost)]
                body.append([network.name, METHODS[part.trial.method], *cells])
    return MarkedTable(
        "parts",
        "The fit at 8 groups, with one part of it taken away: percent of the teacher's result "
        f"kept{_over_seeds(studied)}, the part of a group's variance that offsets make, and the "
        "difference to the whole in points of the score, with the 95 % interval over paired seeds. "
        "Offsets up to 1 are limited to one deviation of a channel, in place of four. Without "
        "descent the best start of the search is taken; least squares has nothing in front of the "
        "norm and no refit",
        ["network", "method", "kept (%)", "offset share", "points to the whole", "95 % interval"],
        body,
    )


def images_table(networks: Sequence[NetworkOutcomes]) -> MarkedTable:
    """What the fit keeps by the number of calibration images."""
    studied = [network for network in networks if len(network.by_images(EIGHT)) > 1]
    counts = sorted({one.trial.images for n in studied for one in n.by_images(EIGHT)})
    body = []
    for network in studied:
        found = {one.trial.images: one for one in network.by_images(EIGHT)}
        body.append([network.name, *(share_text(found.get(count)) for count in counts)])
    return MarkedTable(
        "images",
        "The fit at 8 groups by the number of images that it is calibrated with: percent of the "
        f"teacher's result kept{_over_seeds(studied)}",
        ["network", *(counted(count, "image") for count in counts)],
        body,
    )


def steps_table(networks: Sequence[NetworkOutcomes]) -> MarkedTable:
    """The score after some steps of fine-tuning, by what it began from."""
    lengths = sorted({trial.steps for n in networks for trial in n.outcomes if trial.steps})
    body = []
    for network in networks:
        for start, mine in network.fine_tuned().items():
            found = {one.trial.steps: one for one in mine}
            body.append(
                [
                    network.name,
                    start_name(start),
                    f"{start.rate:g}",
                    score_text(network.before(start)),
                    *(score_text(found.get(steps)) for steps in lengths),
                ]
            )
    return MarkedTable(
        "steps",
        "The score in percent after so many steps of fine-tuning with 4 images each"
        f"{_over_seeds(networks)}. Each line has the rate that is better on the training images "
        "held out after 100 steps, or after the most there are",
        ["network", "start and target", "rate", "0 steps", *(f"{n} steps" for n in lengths)],
        body,
    )


def conversion_problems(networks: Sequence[NetworkOutcomes]) -> list[list[str]]:
    """[where, what, reason]: trials that failed or were not done, and layers left as they are."""
    found = []
    for network in networks:
        missing = 0
        for trial, one in network.outcomes.items():
            for seed, reason in one.failures.items():
                found.append([f"{network.name}, seed {seed}: {trial_text(trial)}", "failed trial",
                              reason])  # fmt: skip
            missing += one.asked - len(one.results) - len(one.failures)
        if missing:
            reason = f"{counted(missing, 'trial')} of it were not done; the same command does them"
            found.append([network.name, "missing", reason])
        found += _skipped(network)
    return found


def trial_numbers(networks: Sequence[NetworkOutcomes]) -> list[dict[str, Any]]:
    """Every trial with every seed, unrounded: what was done, and what it gave or why it failed."""
    return [
        {
            "network": network.name,
            "seed": seed,
            **trial.as_json(),
            "score_percent": one.scores.get(seed),
            "kept_percent": one.kept.get(seed),
            "held_out_percent": one.held_out.get(seed),
            "agreement_percent": one.agreement.get(seed),
            "layers_converted": len(result["layers"]) if result else None,
            "layers_skipped": len(result["skipped"]) if result else None,
            "seconds": result["seconds"] if result else None,
            "reason": one.failures.get(seed),
        }
        for network in networks
        for trial, one in network.outcomes.items()
        for seed in one.seeds
        for result in (one.results.get(seed),)
    ]


def trials_csv(networks: Sequence[NetworkOutcomes]) -> str:
    """The same as CSV."""
    lines = trial_numbers(networks)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(lines[0]) if lines else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()


def _skipped(network: NetworkOutcomes) -> list[list[str]]:
    """The layers that trials left as they are, those of one reason together."""
    trials: dict[tuple[str, str], set[str]] = {}
    for trial, one in network.outcomes.items():
        for result in one.results.values():
            for layer in result["skipped"]:
                key = (layer["name"], f"{layer['source']}: {layer['reason']}")
                trials.setdefault(key, set()).add(trial.name)
    return [
        [f"{network.name}: {name}", "skipped layer", f"{why} (in {counted(len(of), 'trial')})"]
        for (name, why), of in trials.items()
    ]


def trial_text(trial: Trial) -> str:
    """A trial in words, e.g. "fit, 8 groups, 100 steps to labels at rate 0.001"."""
    words = [METHODS[trial.method], _groups_text(trial.to)]
    if trial.images:
        words.append(counted(trial.images, "image"))
    if trial.steps:
        words.append(f"{trial.steps} steps to {trial.target} at rate {trial.rate:g}")
    return ", ".join(word for word in words if word)


def start_name(start: Trial) -> str:
    """What a fine-tuning is called by where it begins, e.g. "fit, 8 groups, labels"."""
    words = (METHODS[start.method], _groups_text(start.to), start.target)
    return ", ".join(word for word in words if word)


def share_text(one: Outcome | None) -> str:
    """Percent kept, with the spread, and how many seeds lack it."""
    return _with_missing(one, None if one is None else estimate_text(one.share))


def score_text(one: Outcome | None) -> str:
    """The score in percent, with the spread, and how many seeds lack it."""
    return _with_missing(one, None if one is None else estimate_text(one.score))


def _groups_text(to: str) -> str:
    """The groups of a norm asked for, as "8 groups" or "fitted groups"; empty for none."""
    name = groups_name(to)
    if name.isdecimal():
        return counted(int(name), "group")
    return f"{name} groups" if name else ""


def _with_missing(one: Outcome | None, text: str | None) -> str:
    if one is None or text is None:
        return NOTHING
    left = one.asked - len(one.results)
    if not one.results:
        return "failed" if one.failures else "missing"
    return (
        f"{text} ({left} of {one.asked} {'failed' if one.failures else 'missing'})" * bool(left)
        or text
    )


def _plain_fit(network: NetworkOutcomes) -> Outcome | None:
    usual = [one for one in network.by_images(EIGHT) if one.trial.images == network.images]
    return next(iter(usual), None)


def _difference_cells(found: Difference | None) -> list[str]:
    if found is None:
        return [NOTHING, NOTHING]
    interval = interval_text(found.interval) if found.interval else NOTHING
    return [plain_text(found.shown), interval]


def _aimed(network: NetworkOutcomes, to: str) -> str:
    """What is kept with these groups, and what is aimed at, if anything."""
    aim = f" ({decimal_text(network.aims[to], 0)})" if to in network.aims else ""
    return f"{share_text(network.found('fit', to))}{aim}"


def _agreement(one: Outcome | None) -> str:
    if one is None or not one.agreement:
        return NOTHING
    return decimal_text(fmean(one.agreement.values()))


def _groups_found(one: Outcome | None) -> str:
    """How many layers have how many groups, e.g. "7 x 4, 12 x 8", in the first seed."""
    if one is None or not one.results:
        return NOTHING
    layers = one.results[min(one.results)]["layers"]
    counts = Counter(layer["groups"] for layer in layers)
    return ", ".join(f"{counts[groups]} x {groups}" for groups in sorted(counts))


def _offset_share(one: Outcome | None) -> str:
    shares = [
        layer["offset_share"]
        for result in (one.results.values() if one else ())
        for layer in result["layers"]
        if layer["offset_share"] is not None
    ]
    return decimal_text(fmean(shares), 2) if shares else NOTHING


def _seconds(one: Outcome | None) -> str:
    if one is None or not one.results:
        return NOTHING
    return seconds_text(fmean(result["seconds"] for result in one.results.values()))


def _over_seeds(networks: Sequence[NetworkOutcomes]) -> str:
    seeds = sorted({network.teacher.asked for network in networks})
    if not seeds or seeds[-1] == 1:
        return ", one seed" if seeds else ""
    return f", mean ± standard deviation over {seeds[-1]} seeds"
