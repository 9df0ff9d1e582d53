"""The figures of final results: by batch size, by norm, by group division, by statistics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
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
    KIND_COLORS,
    FigureSpec,
    Panel,
    Style,
    log_axis,
    name_axis,
    name_height,
    norm_styles,
    with_margin,
)
from groupnorm.study.results.compare import first_table
from groupnorm.study.results.estimates import Estimate
from groupnorm.study.results.format import decimal_text
from groupnorm.study.results.labels import GROUP_NORM, of_kind, row_name
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
from groupnorm.study.results.wording import (
    axis_label,
    beyond_bounds,
    bounds,
    capital,
    noun,
    per_worker,
    rank,
    slug,
)
from groupnorm.training.metric import Metric

# Where a value stands; None where there is none, which breaks the line.
Point = tuple[float, Estimate | None]
RUNNING = "running statistics"
RECOMPUTED = "recomputed statistics"
BAND = "The band is the 95 % interval of the mean"
BARS = "Bars are the 95 % intervals of the means"


def batch_figure(study: Study, rows: list[Row]) -> FigureSpec:
    """Results against images per worker, a line for each norm, beside published numbers."""
    metric = study.metric
    what = capital(noun(metric))
    styles = norm_styles(norm_names(rows))
    batches = batch_sizes(rows)
    once = trained_once(rows)

    def ours(ax: Axes) -> None:
        log_axis(ax, batches, BATCH_LABEL)
        bad: list[tuple[float, Style, str]] = []
        for norm in norm_names(rows):
            mine = [row for row in rows if row.labels["norm"] == norm]
            points = [(row.labels["batch_per_worker"], row.result) for row in mine]
            style = replace(styles[norm], marker="") if norm in once else styles[norm]
            _line_with_band(ax, metric, points, style, study.called(norm))
            mine = mine[:1] if norm in once else mine
            _hollow(ax, "batch_per_worker", mine, styles[norm])
            bad += [
                (row.labels["batch_per_worker"], styles[norm], row.status)
                for row in mine
                if row.result is None
            ]
        if once:
            ax.plot([], [], " ", label="without markers: trained once")
        mark_missing(ax, bad)
        ax.set_ylabel(axis_label(metric, metric.title))
        ax.set_title(f"This study: {subject(study)}")

    caption = (
        f"{measured(study)} against images per worker; the largest batch is on the left, as in the "
        f"paper's Figure 1. {interval_words(study, rows, BAND)}"
    )
    if once:
        caption += " A line without markers is a norm that was trained once for all of them."
    panels = [Panel(ours, f"{what} against images per worker, {subject(study)}")]
    if table := first_table(study, has_batches):
        caption += f" The small panel holds {described(table)} on its own axis."
        panels.append(batch_panel(table, metric))
    return FigureSpec(f"{slug(metric)}-by-batch", f"{what} against batch size", caption, panels)


def norms_figure(study: Study, rows: list[Row]) -> FigureSpec:
    """Result of each norm, the best at the top, beside published numbers."""
    metric, batch = study.metric, batch_sizes(rows)[0]
    what = capital(noun(metric))
    title = f"This study: {subject(study)}\n{per_worker(batch)}"
    caption = (
        f"{measured(study)} per norm at {per_worker(batch)}, best at the top. "
        f"{interval_words(study, rows, BARS)} Small dots are seeds."
    )
    height = max(2.6, 1.2 + 0.42 * len(rows))
    draw = _by_name(study, rows, title)
    panels = [Panel(draw, f"{what} per norm, {subject(study)}", height=height)]
    if table := first_table(study, lambda t: has_norms(t, batch)):
        caption += f" The small panel holds {described(table)}."
        theirs = batch_of(table, batch)
        if theirs not in (None, batch):
            caption += f" These were measured at {per_worker(theirs)}, not at {batch}."
        panels.append(norm_panel(table, metric, batch, height))
    return FigureSpec(f"{slug(metric)}-by-norm", f"{what} by norm", caption, panels)


def arms_figure(study: Study, rows: list[Row]) -> FigureSpec:
    """Result of each arm, the best at the top."""
    metric = study.metric
    what = capital(noun(metric))
    caption = (
        f"{measured(study)} per arm, best at the top. {interval_words(study, rows, BARS)} Small "
        "dots are seeds."
    )
    panel = Panel(
        _by_name(study, rows, f"This study: {subject(study)}"),
        f"{what} per arm, {subject(study)}",
        height=max(2.6, 1.2 + name_height([row_name(study, row) for row in rows]) * len(rows)),
    )
    return FigureSpec(f"{slug(metric)}-by-arm", f"{what} by arm", caption, [panel])


def _by_name(study: Study, rows: Sequence[Row], title: str) -> Callable[[Axes], None]:
    """A line of the panel for each row, the best at the top, with its interval and its seeds."""
    metric = study.metric
    styles = norm_styles(row.labels[study.axis] for row in rows)
    ranks = {id(row): rank(metric, row.mean) for row in rows if row.mean is not None}
    worst_first = sorted(rows, key=lambda row: -ranks.get(id(row), math.inf))

    def draw(ax: Axes) -> None:
        for y, row in enumerate(worst_first):
            style = styles[row.labels[study.axis]]
            if row.result is None:
                ax.text(0.03, y, row.status, color=style.color, va="center", style="italic",
                        transform=ax.get_yaxis_transform())  # fmt: skip
                continue
            seeds = list(row.results.values())
            ax.plot(seeds, [y] * len(seeds), "o", color=style.color, alpha=0.35, ms=4, mew=0)
            ax.errorbar(row.result.mean, y, xerr=bars(metric, [row.result]), color=style.color,
                        marker=style.marker, ms=8, capsize=4)  # fmt: skip
            ax.annotate(decimal_text(row.result.mean), (row.result.mean, y), (0, 9), ha="center",
                        textcoords="offset points", size=9)  # fmt: skip
        name_axis(ax, [row_name(study, row) for row in worst_first])
        if study.axis != "norm":
            ax.margins(x=0.15)  # the number above a marker at the edge stays inside
        ax.set_xlabel(axis_label(metric, metric.title))
        ax.set_title(title)

    return draw


def groups_figure(study: Study, rows: list[Row]) -> FigureSpec:
    """Results by number of groups and by channels per group, beside published numbers."""
    metric = study.metric
    what = capital(noun(metric))
    limits = limits_of(metric, [row.result for row in rows])

    def ours(division: str) -> Callable[[Axes], None]:
        mine = [row for row in rows if row.labels["division"] == division]

        def draw(ax: Axes) -> None:
            points = [(row.labels["value"], row.result) for row in mine]
            style = Style(KIND_COLORS["gn"], "s")
            values = sorted({row.labels["value"] for row in mine}, reverse=True)
            log_axis(ax, values, DIVISIONS[division], EXTREMES[division])
            _line_with_band(ax, metric, points, style, None)
            _hollow(ax, "value", mine, style)
            if limits:
                ax.set_ylim(*limits)
            bad = [(row.labels["value"], style, row.status) for row in mine if row.result is None]
            mark_missing(ax, bad)
            ax.set_ylabel(axis_label(metric, metric.title))
            ax.set_title(f"This study: {subject(study)}")

        return draw

    caption = (
        f"{measured(study)} by number of groups and by channels per group. One group is layer norm "
        "(LN), one channel per group is instance norm (IN). "
        f"{interval_words(study, rows, BAND)}"
    )
    present = [d for d in DIVISIONS if any(row.labels["division"] == d for row in rows)]
    panels = [Panel(ours(d), f"{what} by {DIVISIONS[d]}") for d in present]
    if table := first_table(study, has_groups):
        caption += f" Small panels: {described(table)}."
        panels += group_panels(table, metric, present)
    columns = max(len(present), 1)
    return FigureSpec(
        f"{slug(metric)}-by-groups", f"{what} against groups", caption, panels, columns
    )


def recomputed_figure(study: Study, rows: list[Row]) -> FigureSpec:
    """Running and recomputed statistics side by side, by batch or (with one batch) by norm."""
    batches, metric = batch_sizes(rows), study.metric
    what = capital(noun(metric))
    norms = [n for n in norm_names(rows) if any(r.precise and r.labels["norm"] == n for r in rows)]
    by_labels = {(row.labels["norm"], row.labels["batch_per_worker"]): row for row in rows}
    if len(batches) == 1:
        columns = [(study.called(norm), by_labels[norm, batches[0]]) for norm in norms]
        draw = _recomputed_panel(metric, columns, [], "", per_worker(batches[0]))
        panels = [Panel(draw, f"{what} with running and with recomputed statistics", 3.4)]
    else:
        reference = next(iter(of_kind(GROUP_NORM, norm_names(rows))), "")
        line = [
            (i, row.result) for i, b in enumerate(batches) if (row := by_labels.get((reference, b)))
        ]
        panels = []
        once = trained_once(rows)
        for norm in norms:
            if norm in once:
                column = [("every N", next(row for row in rows if row.labels["norm"] == norm))]
                draw = _recomputed_panel(metric, column, [], "", f"{study.called(norm)} {ONCE}")
                panels.append(
                    Panel(draw, f"{study.called(norm)} with running and with recomputed statistics")
                )
                continue
            columns = [(str(b), row) for b in batches if (row := by_labels.get((norm, b)))]
            draw = _recomputed_panel(
                metric, columns, line, study.called(reference), study.called(norm)
            )
            panels.append(
                Panel(draw, f"{study.called(norm)} with running and with recomputed statistics")
            )
    caption = (
        f"{measured(study)} of the same weights, evaluated twice: with the running statistics "
        "gathered in training, and with statistics recomputed on training data (Precise-BN). What "
        "separates the two is evaluation; what is left is training. "
        f"{interval_words(study, rows, BARS)}"
    )
    title = "Running and recomputed statistics side by side"
    return FigureSpec("running-and-recomputed", title, caption, panels)


def _recomputed_panel(
    metric: Metric,
    columns: list[tuple[str, Row]],
    line: Sequence[Point],
    reference: str,
    title: str,
) -> Callable[[Axes], None]:
    by_batch = bool(columns) and columns[0][0].isdigit()

    def draw(ax: Axes) -> None:
        for label, offset, color in ((RUNNING, -0.1, BLUE), (RECOMPUTED, 0.1, BLACK)):
            points = [
                (i + offset, row.result if label == RUNNING else row.precise)
                for i, (_, row) in enumerate(columns)
            ]
            looks: dict[str, Any] = {"ls": "-" if by_batch else "none", "mfc": color}
            if label == RECOMPUTED:
                looks = {"ls": "--" if by_batch else "none", "mfc": "white"}
            xs, means = _arrays(points)
            ax.errorbar(xs, means, yerr=bars(metric, [value for _, value in points]), color=color,
                        marker="o", ms=7, capsize=3, label=label, lw=1.4, **looks)  # fmt: skip
        if line:
            xs, means = _arrays(line)
            ax.plot(xs, means, ":", lw=1.6, color=KIND_COLORS["gn"],
                    label=f"{reference}, for comparison")  # fmt: skip
        bad = [(float(i), Style(BLUE), row.status)
               for i, (_, row) in enumerate(columns) if row.result is None]  # fmt: skip
        mark_missing(ax, bad)
        ax.set_xticks(range(len(columns)), [name for name, _ in columns])
        ax.set_xlim(-0.5, len(columns) - 0.5)
        ax.grid(visible=False, axis="x")
        ax.set_xlabel(BATCH_LABEL if by_batch else "")
        ax.set_ylabel(axis_label(metric, metric.title))
        ax.set_title(title)

    return draw


def _line_with_band(
    ax: Axes, metric: Metric, points: list[Point], style: Style, label: str | None
) -> None:
    ordered = sorted(points, key=lambda point: -point[0])
    xs, means = _arrays(ordered)
    if sizes := bars(metric, [value for _, value in ordered]):
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


def bars(
    metric: Metric, values: Sequence[Estimate | None]
) -> tuple[list[float], list[float]] | None:
    """How far each 95 % interval reaches below and above its mean; None where no mean has one.

    What is drawn of an interval lies within the bounds of the metric: from 0 to 100 %.
    """
    least, most = bounds(metric) or (-math.inf, math.inf)
    if not any(value and value.interval for value in values):
        return None
    low, high = [], []
    for value in values:
        mean = value.mean if value else math.nan
        ends = (value.interval if value else None) or (mean, mean)
        low.append(mean - max(ends[0], least))
        high.append(min(ends[1], most) - mean)
    return low, high


def measured(study: Study) -> str:
    """What the axis of results shows, to begin a caption with."""
    rule = epochs_rule(study, length=False)
    return f"{capital(study.metric.title)}{title_images(study)} ({rule})"


def interval_words(study: Study, rows: Sequence[Row], what: str) -> str:
    """What intervals are drawn and what they rest on, in sentences.

    Args:
        what: how they are drawn, `BAND` or `BARS`.
    """
    finished = [row.finished for row in rows if row.result]
    words = "No mean has two finished seeds, so there is no interval to draw."
    if any(row.result and row.result.interval for row in rows):
        least, most = min(finished), max(finished)
        seeds = f"{most}" if least == most else f"{least} to {most}"
        words = (
            f"{what} (Student's t, {seeds} seeds). Whether two means differ is told by the "
            "differences of their seeds, not by an overlap here."
        )
        if least == 1:
            words += " A single seed has no interval."
    means = [mean for row in rows for mean in (row.result, row.precise)]
    intervals = [mean.interval if mean else None for mean in means]
    words += beyond_bounds(study.metric, intervals, "; it is drawn up to there")
    if what == BAND and any(row.result and row.status != "finished" for row in rows):
        words += " A hollow marker is a mean that lacks a seed."
    return words


def _arrays(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    """Positions and means; not-a-number where there is no value."""
    return [x for x, _ in points], [e.mean if e else math.nan for _, e in points]


def limits_of(
    metric: Metric, estimates: Iterable[Estimate | None], *more: float
) -> tuple[float, float] | None:
    """The limits of an axis on which all intervals, and `more` values, are seen; None for none."""
    present = [e for e in estimates if e]
    if not present:
        return None
    ends = [end for e in present for end in e.interval or (e.mean, e.mean)]
    ends += more
    least, most = bounds(metric) or (-math.inf, math.inf)
    return with_margin([max(min(ends), least), min(max(ends), most)])
