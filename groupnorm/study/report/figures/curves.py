"""Curves of error against epoch: by norm, by batch size, by group division."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

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
from groupnorm.study.results.rows import ONCE, Row, Study, run_status, trained_once
from groupnorm.study.results.rules import error_name
from groupnorm.study.store import Record

CAPTION = (
    "Mean over finished seeds, with a band of one standard deviation. A thin dashed line is a run "
    "that did not finish; a cross marks where it diverged or failed."
)


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
        panels += _pair(study, series, f"{batch} images per worker")
    title = f"Training and {_words(study)} curves per norm"
    caption = f"Error against epoch (the paper's Figure 4). {CAPTION}"
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
    limits, error = _limits(everything, ("val_error",)), error_name(study)
    panels = [
        Panel(
            _drawer(series, "val_error", error, limits, norm),
            f"{_words(study).capitalize()} curves of {norm}",
        )
        for norm, series in grouped.items()
    ]
    caption = (
        f"{error.capitalize()} against epoch for every number N of images per worker (the "
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
    title = f"Training and {_words(study)} curves by group division"
    return [FigureSpec("curves-by-groups", title, f"Error against epoch. {CAPTION}", panels)]


def _words(study: Study) -> str:
    """What curves are called that are not of the training images: "test" or "validation"."""
    return error_name(study).removesuffix(" error")


def _pair(study: Study, series: list[Series], title: str) -> list[Panel]:
    names = {"train_error": "training error", "val_error": error_name(study)}
    limits = _limits(series, list(names))
    return [
        Panel(
            _drawer(series, key, name, limits, title),
            f"{name.capitalize()} against epoch, {title}",
        )
        for key, name in names.items()
    ]


def _drawer(
    series: Sequence[Series], key: str, name: str, limits: tuple[float, float] | None, title: str
) -> Callable[[Axes], None]:
    def draw(ax: Axes) -> None:
        for line in series:
            _draw_series(ax, line, key)
        if limits:
            ax.set_ylim(*limits)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        ax.set_xlabel("epoch")
        ax.set_ylabel(f"{name} (%)")
        ax.set_title(title)

    return draw


def _draw_series(ax: Axes, series: Series, key: str) -> None:
    color = series.style.color
    done = [r for r in series.records if run_status(r)[0] == "finished"]
    columns = [_values(record, key) for record in done]
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
        if record in done or not (values := _values(record, key)):
            continue
        ax.plot(list(values), list(values.values()), color=color, ls="--", lw=1.0)
        if run_status(record)[0] in ("diverged", "failed"):
            last = max(values)
            ax.plot(last, values[last], "X", color=color, ms=8, mec="white", clip_on=False)


def _values(record: Record, key: str) -> dict[int, float]:
    return {row["epoch"]: row[key] for row in record.metrics if row.get(key) is not None}


def _limits(series: Sequence[Series], keys: Sequence[str]) -> tuple[float, float] | None:
    """From the lowest value to where all but the first tenth of the epochs lie."""
    lowest, settled = [], []
    for line in series:
        for record in line.records:
            for key in keys:
                values = _values(record, key)
                lowest += list(values.values())
                start = 1 + (max(values, default=0) + 9) // 10
                settled += [v for epoch, v in values.items() if epoch >= start] or [
                    *values.values()
                ]
    if not lowest:
        return None
    low, high = min(lowest), max(settled)
    margin = 0.06 * (high - low) or 0.5
    return max(low - margin, -1.0), min(high + margin, 101.0)


def _records(study: Study, row: Row) -> list[Record]:
    return [study.records[name] for name in row.runs]
