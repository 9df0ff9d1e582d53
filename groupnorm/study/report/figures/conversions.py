"""The figures of a study of conversions: by groups, by steps of fine-tuning, by layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from groupnorm.study.conversions.trial import METHODS, Trial
from groupnorm.study.report.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    MARKERS,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    FigureSpec,
    Panel,
    Style,
)
from groupnorm.study.results.conversions import (
    ONE_CHANNEL,
    NetworkOutcomes,
    Outcome,
    group_columns,
    groups_name,
)
from groupnorm.study.results.estimates import Estimate
from groupnorm.study.results.wording import capital

EIGHT = "gn:groups=8"
_COLORS = {
    "reset": GREY, "copy": PURPLE, "data-free": GREEN, "least squares": BLUE, "fit": VERMILLION,
    "frozen BN": SKY, "BN": ORANGE, "scratch": BLACK,
}  # fmt: skip
_STYLES = {m: Style(color, MARKERS[i]) for i, (m, color) in enumerate(_COLORS.items())}

_NEAR = 8.0  # points below the teacher that the second panel shows
_BESIDE = 0.07  # of two methods at the same groups, so that no marker hides another


def conversion_figures(networks: Sequence[NetworkOutcomes]) -> list[FigureSpec]:
    """What is kept over groups, the score over steps, the error of each layer."""
    figures = [_by_groups(networks), _by_steps(networks), _by_layer(networks)]
    return [figure for figure in figures if figure.panels]


def _by_groups(networks: Sequence[NetworkOutcomes]) -> FigureSpec:
    panels = [
        Panel(
            _groups_drawer(network),
            f"Percent of the teacher's result kept against number of groups, {network.name}",
            width=4.4,
            height=3.2,
        )
        for network in networks
        if any(one.share for one in network.grid)
    ]
    caption = (
        "What is kept of the teacher's result without a training step, by the number of groups; "
        "the dashed line is the teacher. Lines join fixed numbers of groups, from one group to one "
        "channel in each. Bars are standard deviations over seeds."
    )
    return FigureSpec("kept", "Kept by number of groups", caption, panels)


def _groups_drawer(network: NetworkOutcomes) -> Callable[[Axes], None]:
    def draw(ax: Axes) -> None:
        columns = group_columns([network])
        fixed = [to for to in columns if groups_name(to).isdecimal() or to == ONE_CHANNEL]
        methods = list(dict.fromkeys(one.trial.method for one in network.grid))
        for number, method in enumerate(methods):
            style, beside = _STYLES[method], _BESIDE * (number - (len(methods) - 1) / 2)
            for part in (fixed, [to for to in columns if to not in fixed]):
                found = {
                    columns.index(to) + beside: one.share
                    for to in part
                    if (one := network.found(method, to)) and one.share
                }
                _line(ax, found, style, METHODS[method], joined=part is fixed)
        ax.axhline(100, color=GREY, lw=1, ls="--")
        ax.set_xticks(range(len(columns)), [_tick(to) for to in columns])
        ax.set_ylim(0, 106)
        ax.set_xlabel("groups")
        ax.set_ylabel("kept (%)")
        ax.set_title(network.name)

    return draw


def _tick(to: str) -> str:
    return groups_name(to).replace(" ", "\n", 1)


def _by_steps(networks: Sequence[NetworkOutcomes]) -> FigureSpec:
    panels = [
        Panel(
            _steps_drawer(network, near),
            f"{capital(network.score_name)} against steps of fine-tuning, {network.name}"
            + ", near the teacher" * near,
            width=4.4,
            height=3.2,
        )
        for network in networks
        if len({trial.steps for trial in network.outcomes if trial.steps}) > 1
        for near in (False, True)
    ]
    caption = (
        "The score after so many steps of fine-tuning with 4 images each, each length a training "
        "of its own; the dashed line is the teacher, and the second panel shows what is "
        "near it. Every start has the rate that is better on "
        "the training images held out. Bars are standard deviations over seeds."
    )
    return FigureSpec("steps", "Fine-tuning at 4 images a step", caption, panels)


def _steps_drawer(network: NetworkOutcomes, near: bool) -> Callable[[Axes], None]:
    def draw(ax: Axes) -> None:
        lengths = [0, *sorted({trial.steps for trial in network.outcomes if trial.steps})]
        for start, mine in network.fine_tuned().items():
            before = network.before(start)
            found: dict[float, Estimate | None] = {
                lengths.index(one.trial.steps): one.score for one in mine
            }
            if before is not None and before.score is not None:
                found = {0: before.score, **found}
            color = _STYLES[start.method]
            dashes = "--" if start.target == "distillation" else "-"
            style = Style(color.color, color.marker, dashes)
            _line(ax, found, style, _start(start), joined=True)
        if network.teacher.score is not None:
            teacher = network.teacher.score.mean
            ax.axhline(teacher, color=GREY, lw=1, ls="--")
            if near:
                ax.set_ylim(teacher - _NEAR, teacher + _NEAR / 4)
        ax.set_xticks(range(len(lengths)), list(map(str, lengths)))
        ax.set_xlabel("steps")
        ax.set_ylabel(f"{network.score_name} (%)")
        ax.set_title(f"{network.name}, near the teacher" if near else network.name)

    return draw


def _start(start: Trial) -> str:
    return f"{METHODS[start.method]}, {start.target}"


def _by_layer(networks: Sequence[NetworkOutcomes]) -> FigureSpec:
    panels = [
        Panel(
            _layers_drawer(network),
            f"Relative error of each norm's output along the network, {network.name}",
            width=4.4,
            height=3.2,
        )
        for network in networks
        if any(_errors(network.found(method, EIGHT)) for method in ("least squares", "fit"))
    ]
    caption = (
        "The error of each norm's output at 8 groups against the teacher's, relative to the "
        "variance of that, in the order of the network; the mean over seeds. Errors of earlier "
        "norms are in it."
    )
    return FigureSpec("layers", "Error of each layer", caption, panels)


def _layers_drawer(network: NetworkOutcomes) -> Callable[[Axes], None]:
    def draw(ax: Axes) -> None:
        lines = {m: _errors(network.found(m, EIGHT)) for m in ("least squares", "fit")}
        for method, errors in lines.items():
            if errors:
                style = _STYLES[method]
                ax.plot(range(1, len(errors) + 1), errors, color=style.color, marker=style.marker,
                        ms=4, label=METHODS[method])  # fmt: skip
        shown = [error for errors in lines.values() for error in errors]
        low, high = math.floor(math.log10(min(shown))), math.floor(math.log10(max(shown))) + 1
        ticks = [10.0**power for power in range(low, high + 1)]
        ax.set_yscale("log")
        ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
        ax.set_ylim(ticks[0], ticks[-1])
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("norm layer")
        ax.set_ylabel("relative error")
        ax.set_title(network.name)

    return draw


def _errors(one: Outcome | None) -> list[float]:
    """The mean error of each layer over the seeds; empty where not every layer has one."""
    rows = [
        [layer["error"] for layer in result["layers"]]
        for result in (one.results.values() if one else ())
    ]
    if not rows or any(error is None for row in rows for error in row):
        return []
    return [max(fmean(errors), 1e-6) for errors in zip(*rows, strict=True)]


def _line(
    ax: Axes, found: Mapping[float, Estimate | None], style: Style, label: str, *, joined: bool
) -> None:
    estimates = {x: one for x, one in found.items() if one is not None}
    if not estimates:
        return
    ax.errorbar(
        list(estimates), [one.mean for one in estimates.values()],
        yerr=[one.spread or 0.0 for one in estimates.values()], color=style.color,
        marker=style.marker, ms=5, ls=style.dashes if joined else "none", lw=1.5, capsize=2,
        label=label,
    )  # fmt: skip
