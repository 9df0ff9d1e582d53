"""The figures of final errors: by batch size, by norm, by group division, by statistics."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from matplotlib.axes import Axes

from groupnorm.study.report.figures.published import (
    EXTREMES,
    batch_panel,
    described,
    group_panels,
    norm_panel,
)
from groupnorm.study.report.figures.style import (
    BATCH_LABEL,
    BLACK,
    BLUE,
    ERROR_LABEL,
    KIND_COLORS,
    FigureSpec,
    Panel,
    Style,
    log_axis,
    name_axis,
    norm_styles,
)
from groupnorm.study.results.compare import first_table
from groupnorm.study.results.estimates import Estimate
from groupnorm.study.results.format import decimal_text
from groupnorm.study.results.labels import GROUP_NORM, of_kind
from groupnorm.study.results.published import (
    DIVISIONS,
    batch_of,
    has_batches,
    has_groups,
    has_norms,
)
from groupnorm.study.results.rows import (
    ONCE,
    Row,
    Study,
    batch_sizes,
    norm_names,
    subject,
    trained_once,
)
from groupnorm.study.results.rules import epochs_rule, title_images

# Where a value stands; None where there is none, which breaks the line.
Point = tuple[float, Estimate | None]
RUNNING = "running statistics"
RECOMPUTED = "recomputed statistics"
BAND = "The band is the 95 % interval of the mean"
BARS = "Bars are the 95 % intervals of the means"


def batch_figure(study: Study, rows: list[Row]) -> FigureSpec:
    """Error against images per worker, a line for each norm, beside published numbers."""
    styles = norm_styles(norm_names(rows))
    batches = batch_sizes(rows)
    once = trained_once(rows)

    def ours(ax: Axes) -> None:
        log_axis(ax, batches, BATCH_LABEL)
        bad: list[tuple[float, Style, str]] = []
        for norm in norm_names(rows):
            mine = [row for row in rows if row.labels["norm"] == norm]
            points = [(row.labels["batch_per_worker"], row.error) for row in mine]
            style = replace(styles[norm], marker="") if norm in once else styles[norm]
            _line_with_band(ax, points, style, study.called(norm))
            mine = mine[:1] if norm in once else mine
            _hollow(ax, "batch_per_worker", mine, styles[norm])
            bad += [
                (row.labels["batch_per_worker"], styles[norm], row.status)
                for row in mine
                if row.error is None
            ]
        if once:
            ax.plot([], [], " ", label="without markers: trained once")
        mark_missing(ax, bad)
        ax.set_ylabel(ERROR_LABEL)
        ax.set_title(f"This study: {subject(study)}")

    caption = (
        f"{_what(study)} against images per worker; the largest batch is on the left, as in the "
        f"paper's Figure 1. {_interval_words(rows, BAND)}"
    )
    if once:
        caption += " A line without markers is a norm that was trained once for all of them."
    panels = [Panel(ours, f"Error against images per worker, {subject(study)}")]
    if table := first_table(study, has_batches):
        caption += f" The small panel holds {described(table)} on its own axis."
        panels.append(batch_panel(table))
    return FigureSpec("error-by-batch", "Error against batch size", caption, panels)


def norms_figure(study: Study, rows: list[Row]) -> FigureSpec:
    """Error of each norm, the best at the top, beside published numbers."""
    styles = norm_styles(norm_names(rows))
    worst_first = sorted(rows, key=lambda row: -(row.mean if row.mean is not None else 1e9))
    names = [study.called(row.labels["norm"]) for row in worst_first]

    def ours(ax: Axes) -> None:
        for y, row in enumerate(worst_first):
            style = styles[row.labels["norm"]]
            if row.error is None:
                ax.text(0.03, y, row.status, color=style.color, va="center", style="italic",
                        transform=ax.get_yaxis_transform())  # fmt: skip
                continue
            seeds = list(row.errors.values())
            ax.plot(seeds, [y] * len(seeds), "o", color=style.color, alpha=0.35, ms=4, mew=0)
            ax.errorbar(row.error.mean, y, xerr=bars([row.error]), color=style.color,
                        marker=style.marker, ms=8, capsize=4)  # fmt: skip
            ax.annotate(decimal_text(row.error.mean), (row.error.mean, y), (0, 9), ha="center",
                        textcoords="offset points", size=9)  # fmt: skip
        name_axis(ax, names)
        ax.set_xlabel(ERROR_LABEL)
        ax.set_title(f"This study: {subject(study)}\n{batch} images per worker")

    batch = batch_sizes(rows)[0]
    caption = (
        f"{_what(study)} per norm at {batch} images per worker, best at the top. "
        f"{_interval_words(rows, BARS)} Small dots are seeds."
    )
    height = max(2.6, 1.2 + 0.42 * len(rows))
    panels = [Panel(ours, f"Error per norm, {subject(study)}", height=height)]
    if table := first_table(study, lambda t: has_norms(t, batch)):
        caption += f" The small panel holds {described(table)}."
        theirs = batch_of(table, batch)
        if theirs not in (None, batch):
            caption += f" These were measured at {theirs} images per worker, not at {batch}."
        panels.append(norm_panel(table, batch, height))
    return FigureSpec("error-by-norm", "Error by norm", caption, panels)


def groups_figure(study: Study, rows: list[Row]) -> FigureSpec:
    """Error by number of groups and by channels per group, beside published numbers."""
    limits = _limits([row.error for row in rows])

    def ours(division: str) -> Callable[[Axes], None]:
        mine = [row for row in rows if row.labels["division"] == division]

        def draw(ax: Axes) -> None:
            points = [(row.labels["value"], row.error) for row in mine]
            style = Style(KIND_COLORS["gn"], "s")
            values = sorted({row.labels["value"] for row in mine}, reverse=True)
            log_axis(ax, values, DIVISIONS[division], EXTREMES[division])
            _line_with_band(ax, points, style, None)
            _hollow(ax, "value", mine, style)
            if limits:
                ax.set_ylim(*limits)
            bad = [(row.labels["value"], style, row.status) for row in mine if row.error is None]
            mark_missing(ax, bad)
            ax.set_ylabel(ERROR_LABEL)
            ax.set_title(f"This study: {subject(study)}")

        return draw

    caption = (
        f"{_what(study)} by number of groups and by channels per group. One group is layer norm "
        "(LN), one channel per group is instance norm (IN). "
        f"{_interval_words(rows, BAND)}"
    )
    present = [d for d in DIVISIONS if any(row.labels["division"] == d for row in rows)]
    panels = [Panel(ours(d), f"Error by {DIVISIONS[d]}") for d in present]
    if table := first_table(study, has_groups):
        caption += f" Small panels: {described(table)}."
        panels += group_panels(table, present)
    columns = max(len(present), 1)
    return FigureSpec("error-by-groups", "Error against groups", caption, panels, columns)


def recomputed_figure(study: Study, rows: list[Row]) -> FigureSpec:
    """Running and recomputed statistics side by side, by batch or (with one batch) by norm."""
    batches = batch_sizes(rows)
    norms = [n for n in norm_names(rows) if any(r.precise and r.labels["norm"] == n for r in rows)]
    by_labels = {(row.labels["norm"], row.labels["batch_per_worker"]): row for row in rows}
    if len(batches) == 1:
        columns = [(study.called(norm), by_labels[norm, batches[0]]) for norm in norms]
        draw = _recomputed_panel(columns, [], "", f"{batches[0]} images per worker")
        panels = [Panel(draw, "Error with running and with recomputed statistics", 3.4)]
    else:
        reference = next(iter(of_kind(GROUP_NORM, norm_names(rows))), "")
        line = [
            (i, row.error) for i, b in enumerate(batches) if (row := by_labels.get((reference, b)))
        ]
        panels = []
        once = trained_once(rows)
        for norm in norms:
            if norm in once:
                column = [("every N", next(row for row in rows if row.labels["norm"] == norm))]
                draw = _recomputed_panel(column, [], "", f"{study.called(norm)} {ONCE}")
                panels.append(
                    Panel(draw, f"{study.called(norm)} with running and with recomputed statistics")
                )
                continue
            columns = [(str(b), row) for b in batches if (row := by_labels.get((norm, b)))]
            draw = _recomputed_panel(columns, line, study.called(reference), study.called(norm))
            panels.append(
                Panel(draw, f"{study.called(norm)} with running and with recomputed statistics")
            )
    caption = (
        f"{_what(study)} of the same weights, evaluated twice: with the running statistics "
        "gathered in training, and with statistics recomputed on training data (Precise-BN). What "
        "separates the two is evaluation; what is left is training. "
        f"{_interval_words(rows, BARS)}"
    )
    title = "Running and recomputed statistics side by side"
    return FigureSpec("running-and-recomputed", title, caption, panels)


def _recomputed_panel(
    columns: list[tuple[str, Row]], line: Sequence[Point], reference: str, title: str
) -> Callable[[Axes], None]:
    by_batch = bool(columns) and columns[0][0].isdigit()

    def draw(ax: Axes) -> None:
        for label, offset, color in ((RUNNING, -0.1, BLUE), (RECOMPUTED, 0.1, BLACK)):
            points = [
                (i + offset, row.error if label == RUNNING else row.precise)
                for i, (_, row) in enumerate(columns)
            ]
            looks: dict[str, Any] = {"ls": "-" if by_batch else "none", "mfc": color}
            if label == RECOMPUTED:
                looks = {"ls": "--" if by_batch else "none", "mfc": "white"}
            xs, means = _arrays(points)
            ax.errorbar(xs, means, yerr=bars([value for _, value in points]), color=color,
                        marker="o", ms=7, capsize=3, label=label, lw=1.4, **looks)  # fmt: skip
        if line:
            xs, means = _arrays(line)
            ax.plot(xs, means, ":", lw=1.6, color=KIND_COLORS["gn"],
                    label=f"{reference}, for comparison")  # fmt: skip
        bad = [(float(i), Style(BLUE), row.status)
               for i, (_, row) in enumerate(columns) if row.error is None]  # fmt: skip
        mark_missing(ax, bad)
        ax.set_xticks(range(len(columns)), [name for name, _ in columns])
        ax.set_xlim(-0.5, len(columns) - 0.5)
        ax.grid(visible=False, axis="x")
        ax.set_xlabel(BATCH_LABEL if by_batch else "")
        ax.set_ylabel(ERROR_LABEL)
        ax.set_title(title)

    return draw


def _line_with_band(ax: Axes, points: list[Point], style: Style, label: str | None) -> None:
    ordered = sorted(points, key=lambda point: -point[0])
    xs, means = _arrays(ordered)
    if sizes := bars([value for _, value in ordered]):
        low = [mean - size for mean, size in zip(means, sizes[0], strict=True)]
        high = [mean + size for mean, size in zip(means, sizes[1], strict=True)]
        ax.fill_between(xs, low, high, facecolor=(style.color, 0.14),
                        edgecolor=(style.color, 0.6), linewidth=0.8)  # fmt: skip
    ax.plot(xs, means, color=style.color, marker=style.marker, ls=style.dashes, label=label)


def _hollow(ax: Axes, axis: str, rows: Sequence[Row], style: Style) -> None:
    """Open the markers of means that some seeds are missing from."""
    for row in rows:
        if row.mean is not None and row.status != "finished":
            ax.plot(row.labels[axis], row.mean, marker=style.marker, color=style.color, mfc="white")


def mark_missing(ax: Axes, bad: list[tuple[float, Style, str]]) -> None:
    """A cross in the norm's colour and a word above the data wherever there is no number."""
    if not bad:
        return
    levels: dict[float, int] = {}
    low, high = ax.get_ylim()
    step = 0.075 * (high - low)
    for x, style, status in bad:
        levels[x] = levels.get(x, 0) + 1
        y = high + step * (levels[x] - 0.5)
        ax.annotate("\u00d7", (x, y), (-27, 0), textcoords="offset points", va="center",
                    ha="center", color=style.color, size=14, weight="bold")  # fmt: skip
        ax.annotate(status, (x, y), (-20, 0), textcoords="offset points", va="center", size=8.5)
    ax.set_ylim(low, high + step * max(levels.values()))


def bars(values: Sequence[Estimate | None]) -> tuple[list[float], list[float]] | None:
    """How far each 95 % interval reaches below and above its mean; None where no mean has one.

    An error lies between 0 and 100 %, and so does what is drawn of an interval.
    """
    if not any(value and value.interval for value in values):
        return None
    low, high = [], []
    for value in values:
        mean = value.mean if value else math.nan
        ends = (value.interval if value else None) or (mean, mean)
        low.append(mean - max(ends[0], 0.0))
        high.append(min(ends[1], 100.0) - mean)
    return low, high


def _what(study: Study) -> str:
    """What the axis of errors shows, to begin a caption with."""
    return f"Top-1 error{title_images(study)} ({epochs_rule(study, length=False)})"


def _interval_words(rows: Sequence[Row], what: str) -> str:
    finished = [row.finished for row in rows if row.error]
    words = "No mean has two finished seeds, so there is no interval to draw."
    if any(row.error and row.error.interval for row in rows):
        least, most = min(finished), max(finished)
        seeds = f"{most}" if least == most else f"{least} to {most}"
        words = (
            f"{what} (Student's t, {seeds} seeds). Whether two means differ is told by the "
            "differences of their seeds, not by an overlap here."
        )
        if least == 1:
            words += " A single seed has no interval."
    if what == BAND and any(row.error and row.status != "finished" for row in rows):
        words += " A hollow marker is a mean that lacks a seed."
    return words


def _arrays(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    """Positions and means; not-a-number where there is no value."""
    return [x for x, _ in points], [e.mean if e else math.nan for _, e in points]


def _limits(estimates: Sequence[Estimate | None]) -> tuple[float, float] | None:
    present = [e for e in estimates if e]
    if not present:
        return None
    ends = [end for e in present for end in e.interval or (e.mean, e.mean)]
    low, high = max(min(ends), 0.0), min(max(ends), 100.0)
    margin = 0.08 * (high - low) or 0.5
    return low - margin, high + margin
