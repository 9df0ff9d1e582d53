"""The figure of a search: the result of every rule by epoch, and where each was dropped."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from groupnorm.study.report.figures.style import (
    BLUE,
    GREEN,
    GREY,
    VERMILLION,
    Color,
    FigureSpec,
    Panel,
    name_axis,
)
from groupnorm.study.results.format import decimal_text
from groupnorm.study.results.outcomes import search_of
from groupnorm.study.results.rows import Row, Study
from groupnorm.study.results.search import Search
from groupnorm.study.results.wording import axis_label, capital, noun

_GAP = 0.083  # between the labels of two lines, in parts of the height of the axes
_LINES = 0.5  # of the width of the axes; the labels have the rest
_COLORS = (VERMILLION, BLUE, GREEN)


@dataclass(frozen=True)
class _Line:
    """One run in a panel: its results by epoch, its name, and whether it was dropped at the end."""

    results: dict[int, float]
    name: str
    color: Color
    dropped: bool
    dashes: str = "-"


def search_figure(study: Study, rows: list[Row]) -> FigureSpec:
    """Every rule up to the first rung, the best ones from there on, and the refinement."""
    search = search_of(study)
    first, *_, end = search.settings["rungs"]
    colors, what = _colors(search), capital(noun(study.metric))
    panels = [
        Panel(
            _drawer(search, _all_rules(study, rows, colors), f"all rules, up to epoch {first}"),
            f"{what} of every rule up to epoch {first}, and which were dropped there",
            height=3.2,
        )
    ]
    if later := _kept(study, rows, colors):
        panels.append(
            Panel(
                _drawer(search, later, f"the best ones, up to epoch {end}"),
                f"{what} of the rules that were kept, from epoch {first} to epoch {end}",
                height=3.2,
            )
        )
    if search.steps:
        panels.append(_refinement(search))
    caption = (
        f"{what} on validation images after each epoch of a schedule of {search.full_epochs}. A "
        f"cross is where a rule was dropped, by its {noun(study.metric)} over the rung that ends "
        "there. Coloured lines were kept by the first rung; a dashed line is another "
        "seed of the rule that came to the end."
    )
    return FigureSpec("search", "How the number of groups was found", caption, panels)


def _colors(search: Search) -> dict[str, Color]:
    """Colours of the rules that the first rung kept, the chosen one first; grey for the others."""
    kept = search.rungs[0].kept
    order = sorted(kept, key=lambda norm: norm != search.rule)
    return dict(zip(order, _COLORS, strict=False))


def _all_rules(study: Study, rows: list[Row], colors: dict[str, Color]) -> list[_Line]:
    rung = search_of(study).rungs[0]
    return [
        _Line(
            _results(study, row.runs[0], 1, rung.epochs),
            study.called(norm),
            colors.get(norm, GREY),
            norm in rung.dropped,
        )
        for row in rows
        if (norm := row.labels["norm"]) in rung.asked
    ]


def _kept(study: Study, rows: list[Row], colors: dict[str, Color]) -> list[_Line]:
    search = search_of(study)
    first, *_, end = search.settings["rungs"]
    lines = []
    for row in rows:
        norm = row.labels["norm"]
        if norm not in colors:
            continue
        dropped = any(norm in rung.dropped for rung in search.rungs)
        for number, name in enumerate(row.runs):
            results = _results(study, name, first, end)
            label = f"seed {_seed(study, name)}" if number else study.called(norm)
            lines.append(_Line(results, label, colors[norm], dropped, "--" if number else "-"))
    return lines if any(len(line.results) > 1 for line in lines) else []


def _seed(study: Study, run: str) -> int:
    return next(cell.seed for cell in study.cells if cell.run == run)


def _results(study: Study, run: str, first: int, last: int) -> dict[int, float]:
    rows, name = study.records[run].metrics[first - 1 : last], study.metric.name
    return {row["epoch"]: row[name] for row in rows if row.get(name) is not None}


def _label(search: Search) -> str:
    return axis_label(search.metric, f"{noun(search.metric)} on validation images")


def _drawer(search: Search, lines: Sequence[_Line], title: str) -> Callable[[Axes], None]:
    def draw(ax: Axes) -> None:
        drawn = [line for line in lines if line.results]
        for line in sorted(drawn, key=lambda line: line.color != GREY):
            epochs, results = list(line.results), list(line.results.values())
            alone = "o" if len(epochs) == 1 else None
            ax.plot(epochs, results, color=line.color, ls=line.dashes, lw=1.6, marker=alone)
            if line.dropped:
                ax.plot(epochs[-1], results[-1], "X", color=line.color, ms=7, mec="white",
                        clip_on=False)  # fmt: skip
        ax.set_xlabel("epoch")
        ax.set_ylabel(_label(search))
        ax.set_title(title)
        _label_ends(ax, drawn)

    return draw


def _label_ends(ax: Axes, lines: Sequence[_Line]) -> None:
    """The name and last result of every line in the right part of the axes, joined to its end."""
    if not lines:
        return
    first, last = min(min(line.results) for line in lines), max(max(line.results) for line in lines)
    span = max(last - first, 1)
    ax.set_xlim(first - 0.05 * span, first + span / _LINES)
    ticks = MaxNLocator(5, integer=True, min_n_ticks=1).tick_values(first, last)
    ax.set_xticks([tick for tick in ticks if first <= tick <= last and tick % 1 == 0])
    low, high = ax.get_ylim()
    ends = [list(line.results.values())[-1] for line in lines]
    places = spread_out([(end - low) / (high - low) for end in ends], _GAP)
    for line, end, place in zip(lines, ends, places, strict=True):
        ax.annotate(
            f"{line.name}  {decimal_text(end)}",
            (max(line.results), end),
            (_LINES + 0.1, place),
            textcoords=ax.transAxes,
            color=line.color,
            size=8.5,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": line.color, "lw": 0.5, "relpos": (0, 0.5)},
        )


def spread_out(places: Sequence[float], gap: float) -> list[float]:
    """The places moved as little as needed to lie `gap` apart, in the same order, within 0 to 1.

    Each run of places that are too close is spread about its own middle.
    """
    order = sorted(range(len(places)), key=lambda index: places[index])
    groups: list[tuple[float, list[int]]] = []  # the middle of a group, and who belongs to it
    for index in order:
        middle, members = places[index], [index]
        while groups and middle - groups[-1][0] < gap * (len(members) + len(groups[-1][1])) / 2:
            before, others = groups.pop()
            total = len(members) + len(others)
            middle = (middle * len(members) + before * len(others)) / total
            members = [*others, *members]
        groups.append((middle, members))
    found = list(places)
    for middle, members in groups:
        for number, index in enumerate(members):
            found[index] = middle + gap * (number - (len(members) - 1) / 2)
    for number, index in enumerate(order):
        found[index] = max(found[index], gap * (number + 0.5))
    for number, index in enumerate(reversed(order)):
        found[index] = min(found[index], 1 - gap * (number + 0.5))
    return found


def _refinement(search: Search) -> Panel:
    """The results of the alternatives of each stage, below each other."""
    end = search.settings["rungs"][-1]
    steps = [(step, norm) for step in search.steps for norm in step.asked]

    def draw(ax: Axes) -> None:
        name_axis(ax, [_changed(norm, step.part) for step, norm in reversed(steps)])
        for place, (step, norm) in enumerate(reversed(steps)):
            result = step.results.get(norm)
            if result is not None and math.isfinite(result):
                taken = norm == step.best
                ax.plot(result, place, "o", color=VERMILLION if taken else GREY)
        if search.rule is not None:
            ax.axvline(search.rungs[-1].results[search.rule], color=VERMILLION, lw=1, ls=":")
        ax.set_xlabel(_label(search))
        ax.set_title(f"by stage, at epoch {end}")

    height = max(2.4, 0.9 + 0.25 * len(steps))
    what = capital(noun(search.metric))
    return Panel(draw, f"{what} of other numbers of groups in single stages", height=height)


def _changed(norm: str, part: str) -> str:
    """Of norms by place that of one part, as "stage1 groups=16"; "stage1 gn" for the default."""
    rule, *places = norm.split(" ")
    spec = dict(place.split("=", 1) for place in places).get(part, rule)
    return f"{part} {spec.partition(':')[2] or spec}"
