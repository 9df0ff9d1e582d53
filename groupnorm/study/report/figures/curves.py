"""Curves of results against epoch: by norm, by batch size, by group division, by arm; and of arms
against the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from groupnorm.study.report.figures.style import (
    BLACK,
    FigureSpec,
    Panel,
    Style,
    norm_styles,
    sequence_colors,
)
from groupnorm.study.results.by_step import running_note
from groupnorm.study.results.clips import clips_of, families, line_name, lines_of
from groupnorm.study.results.differences import groups_of
from groupnorm.study.results.labels import row_name
from groupnorm.study.results.rows import (
    ONCE,
    Row,
    Study,
    by_runs,
    norm_names,
    run_status,
    subject,
    trained_once,
)
from groupnorm.study.results.rules import evaluation_word
from groupnorm.study.results.wording import (
    axis_label,
    bounds,
    capital,
    lower_is_better,
    noun,
    per_worker,
)
from groupnorm.study.store import Record
from groupnorm.training.metric import Metric

CAPTION = (
    "Mean over finished seeds, with a band of one standard deviation. A thin dashed line is a run "
    "that did not finish; a cross marks where it diverged or failed."
)


Axis = Literal["epoch", "step"]
LEAST_EPOCHS = 5
"""Of a study of clips: runs of small ones have two or three epochs, which are no curve."""


@dataclass(frozen=True)
class Series:
    """The runs (one per seed) that make one line."""

    label: str
    records: list[Record]
    style: Style


def norm_figure(study: Study, rows: list[Row]) -> FigureSpec:
    """Training and test curves per norm at the largest and the smallest batch (Figure 4)."""
    styles = norm_styles(row.labels["norm"] for row in rows)
    sizes = [row.labels["batch_per_worker"] for row in rows]
    panels = []
    for batch in sorted({max(sizes), min(sizes)}, reverse=True):
        series = [
            Series(
                study.called(row.labels["norm"]), _records(study, row), styles[row.labels["norm"]]
            )
            for row in rows
            if row.labels["batch_per_worker"] == batch
        ]
        panels += _pair(study, series, per_worker(batch))
    title = f"Training and {evaluation_word(study)} curves per norm"
    caption = f"{capital(noun(study.metric))} against epoch (the paper's Figure 4). {CAPTION}"
    if once := trained_once(rows):
        names = [study.called(norm) for norm in styles if norm in once]
        caption += f" Trained once, with the same lines at every batch size: {', '.join(names)}."
    return FigureSpec("curves-by-norm", title, caption, panels)


def batch_figure(study: Study, rows: list[Row]) -> FigureSpec:
    """Test curves by batch size, one panel per norm (the paper's Figure 5)."""
    sizes = sorted({row.labels["batch_per_worker"] for row in rows}, reverse=True)
    colors = dict(zip(sizes, sequence_colors(len(sizes)), strict=True))
    grouped: dict[str, list[Series]] = {}
    once = trained_once(rows)
    for norm in dict.fromkeys(row.labels["norm"] for row in rows):
        mine = [row for row in rows if row.labels["norm"] == norm]
        if norm in once:
            one = Series("every N", _records(study, mine[0]), Style(BLACK))
            grouped[f"{study.called(norm)} {ONCE}"] = [one]
            continue
        grouped[study.called(norm)] = [
            Series(
                f"N = {(batch := row.labels['batch_per_worker'])}",
                _records(study, row),
                Style(colors[batch]),
            )
            for row in mine
        ]
    everything = [series for group in grouped.values() for series in group]
    metric, evaluated = study.metric, _evaluated(study)
    limits = _limits(metric, everything, (metric.name,))
    panels = [
        Panel(
            _drawer(study, series, metric.name, evaluated, limits, norm),
            f"{capital(evaluation_word(study))} curves of {norm}",
        )
        for norm, series in grouped.items()
    ]
    caption = (
        f"{capital(evaluated)} against epoch for every number N of images per worker (the "
        f"paper's Figure 5). {CAPTION}"
    )
    return FigureSpec("curves-by-batch", "Curves by batch size per norm", caption, panels)


def group_figures(study: Study, rows: list[Row]) -> list[FigureSpec]:
    """Training and test curves by number of groups and by channels per group."""
    panels: list[Panel] = []
    values = sorted({row.labels["value"] for row in rows}, reverse=True)
    colors = dict(zip(values, sequence_colors(len(values)), strict=True))
    for division, words in (("groups", "number of groups"), ("size", "channels per group")):
        mine = [row for row in rows if row.labels["division"] == division]
        mine.sort(key=lambda row: -row.labels["value"])
        series = [
            Series(str(value := row.labels["value"]), _records(study, row), Style(colors[value]))
            for row in mine
        ]
        if series:
            panels += _pair(study, series, f"by {words}")
    title = f"Training and {evaluation_word(study)} curves by group division"
    caption = f"{capital(noun(study.metric))} against epoch. {CAPTION}"
    return [FigureSpec("curves-by-groups", title, caption, panels)]


def arm_figure(study: Study, rows: list[Row]) -> FigureSpec:
    """Curves of every arm; those of the training images beside them where runs measure them."""
    styles = norm_styles(row.labels["arm"] for row in rows)
    series = [
        Series(row_name(study, row), _records(study, row), styles[row.labels["arm"]])
        for row in rows
    ]
    caption = f"{capital(noun(study.metric))} against epoch. {CAPTION}"
    panels = _pair(study, series, subject(study))
    return FigureSpec("curves-by-arm", "Curves per arm", caption, panels)


def step_figure(study: Study, rows: list[Row]) -> FigureSpec:
    """Test curves of every arm against the step, a panel for each number of images per worker.

    All panels have the same axis, from the first evaluation on: the first steps are in question.
    """
    styles = norm_styles(row.labels["arm"] for row in rows)
    metric, evaluated = study.metric, _evaluated(study)
    groups = {
        here[0].labels["batch_per_worker"]: [
            Series(study.label(row.labels), _records(study, row), styles[row.labels["arm"]])
            for row in here
        ]
        for here in groups_of(study, rows)
    }
    values = [
        value
        for series in (one for group in groups.values() for one in group)
        for record in series.records
        for value in _values(record, metric.name).values()
    ]
    margin = 0.06 * (max(values) - min(values)) or 0.5 if values else 0.0
    limits = (min(values) - margin, max(values) + margin) if values else None
    panels = []
    for size, series in groups.items():
        title = f"{size} {'image' if size == 1 else 'images'} per worker"
        draw = _drawer(study, series, metric.name, evaluated, limits, title, "step")
        panels.append(Panel(draw, f"{capital(evaluated)} against step, {title}"))
    caption = f"{capital(evaluated)} against the optimizer step. {CAPTION}"
    if note := running_note(study, rows):
        caption += f" {note}"
    if once := [label for label, count in _times_drawn(rows).items() if count > 1]:
        names = ", ".join(study.called(arm) for arm in once)
        caption += f" Trained once, with the same line in every panel: {names}."
    return FigureSpec("curves-by-step", "Curves by step", caption, panels, columns=len(panels))


def _times_drawn(rows: Sequence[Row]) -> dict[str, int]:
    """By arm, how many rows its runs fill at most."""
    return {same[0].labels["arm"]: len(same) for same in by_runs(rows)}


def clip_figures(
    study: Study, rows: list[Row], styles: Mapping[tuple[str, int | None], Style]
) -> list[FigureSpec]:
    """Training and test curves for every length of the clips, in lines as of the main figure.

    A panel needs a run with `LEAST_EPOCHS` values; without any there is no figure.
    """
    panels = []
    every = families(rows)
    for family in every:
        names = [study.called(norm) for norm in norm_names(family)] if len(every) > 1 else []
        for clip in clips_of(family):
            series = [
                Series(line_name(study, line), _records(study, line.rows[clip]),
                       styles[line.norm, line.batch])
                for line in lines_of(family)
                if clip in line.rows
            ]  # fmt: skip
            title = ", ".join([*names, f"clips of {clip}"])
            panels += _pair(study, series, title, LEAST_EPOCHS)
    if not panels:
        return []
    caption = f"{capital(noun(study.metric))} against epoch. {CAPTION}"
    return [FigureSpec("curves-by-clip", "Curves by the length of the clips", caption, panels)]


def _evaluated(study: Study) -> str:
    """What is evaluated on images that are not trained on: "test error" or "validation error"."""
    return f"{evaluation_word(study)} {noun(study.metric)}"


def _pair(study: Study, series: list[Series], title: str, least: int = 0) -> list[Panel]:
    """A panel of the training images, where runs measure them, and one of the others.

    Args:
        least: a panel is left out where no run has values of so many epochs.
    """
    names = {study.training.name: study.training.title} if study.training else {}
    names[study.metric.name] = _evaluated(study)
    limits = _limits(study.metric, series, list(names))
    return [
        Panel(
            _drawer(study, series, key, name, limits, title),
            f"{capital(name)} against epoch, {title}",
        )
        for key, name in names.items()
        if max((len(_values(r, key)) for s in series for r in s.records), default=0) >= least
    ]


def _drawer(
    study: Study,
    series: Sequence[Series],
    key: str,
    name: str,
    limits: tuple[float, float] | None,
    title: str,
    axis: Axis = "epoch",
) -> Callable[[Axes], None]:
    def draw(ax: Axes) -> None:
        for line in series:
            _draw_series(ax, study.metric, line, key, axis)
        if limits:
            ax.set_ylim(*limits)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        ax.set_xlabel(axis)
        ax.set_ylabel(axis_label(study.metric, name))
        ax.set_title(title)

    return draw


def _draw_series(ax: Axes, metric: Metric, series: Series, key: str, axis: Axis) -> None:
    color = series.style.color
    done = [r for r in series.records if run_status(r, metric)[0] == "finished"]
    columns = [_values(record, key, axis) for record in done]
    epochs = sorted(set.intersection(*(set(c) for c in columns))) if columns else []
    across = [[column[epoch] for column in columns] for epoch in epochs]
    means = [fmean(values) for values in across]
    ax.plot(
        epochs, means, color=color, ls=series.style.dashes, lw=1.6, label=series.label,
        marker="o" if len(epochs) == 1 else None,  # a line through one epoch would show nothing
    )  # fmt: skip
    if len(columns) > 1:
        spreads = [stdev(values) for values in across]
        low = [m - s for m, s in zip(means, spreads, strict=True)]
        high = [m + s for m, s in zip(means, spreads, strict=True)]
        ax.fill_between(epochs, low, high, color=color, alpha=0.18, linewidth=0)
    for record in series.records:
        if record in done or not (values := _values(record, key, axis)):
            continue
        ax.plot(list(values), list(values.values()), color=color, ls="--", lw=1.0)
        if run_status(record, metric)[0] in ("diverged", "failed"):
            last = max(values)
            ax.plot(last, values[last], "X", color=color, ms=8, mec="white", clip_on=False)


def _values(record: Record, key: str, axis: Axis = "epoch") -> dict[int, float]:
    return {row[axis]: row[key] for row in record.metrics if row.get(key) is not None}


def _limits(
    metric: Metric, series: Sequence[Series], keys: Sequence[str]
) -> tuple[float, float] | None:
    """From the best value to where all but the first tenth of the epochs lie."""
    every, settled = [], []
    for line in series:
        for record in line.records:
            for key in keys:
                values = _values(record, key)
                every += list(values.values())
                start = 1 + (max(values, default=0) + 9) // 10
                settled += [v for epoch, v in values.items() if epoch >= start] or [
                    *values.values()
                ]
    if not every:
        return None
    low, high = min(every), max(settled)
    if not lower_is_better(metric):
        low, high = min(settled), max(every)
    margin = 0.06 * (high - low) or 0.5
    least, most = bounds(metric) or (-math.inf, math.inf)
    return max(low - margin, least - 1.0), min(high + margin, most + 1.0)


def _records(study: Study, row: Row) -> list[Record]:
    return [study.records[name] for name in row.runs]
