"""The figure of results against cost: time and memory for each norm."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.axes import Axes

from groupnorm.study.report.figures.final import bars
from groupnorm.study.report.figures.style import FigureSpec, Panel, Style, norm_styles
from groupnorm.study.results.costs import how_timed, milliseconds
from groupnorm.study.results.labels import row_name
from groupnorm.study.results.rows import Row, Study, batch_sizes
from groupnorm.study.results.rules import epochs_rule, title_images
from groupnorm.study.results.wording import (
    axis_label,
    capital,
    lower_is_better,
    noun,
    per_worker,
    slug,
    with_article,
)


def cost_figures(study: Study, rows: list[Row]) -> list[FigureSpec]:
    """Results against time and against saved memory at the largest batch; none without costs.

    There is no panel of time unless it was taken in turns (`cost_pass`), with a spread that leaves
    something to compare.
    """
    if not rows:
        return []
    metric, batches = study.metric, batch_sizes(rows)
    what, where = capital(noun(metric)), f", at {per_worker(batches[0])}" if batches else ""
    here = [row for row in rows if row.result]
    if batches:
        here = [row for row in here if row.labels["batch_per_worker"] == batches[0]]
    styles = norm_styles(row.labels[study.axis] for row in rows)  # as in the other figures
    axes: tuple[tuple[str, str, Callable[[Row], float | None], dict[str, float]], ...] = (
        ("forward and backward (ms per image)", "time per image", _time, study.cost_pass.spreads),
        ("saved for backward (MiB per image)", "memory saved per image", _saved, {}),
    )
    panels = [
        Panel(
            _panel(study, here, styles, label, cost, spreads),
            f"{what} against {words}",
            4.0,
            3.4,
        )
        for label, words, cost, spreads in axes
        if any(cost(row) is not None for row in here)
    ]
    if not panels:
        return []
    corner = "lower" if lower_is_better(metric) else "upper"
    words = "Bars are 95 % intervals of means over seeds (Student's t)."
    if not any(row.result and row.result.interval for row in here):
        words = "A single seed has no interval."
    if study.cost_pass.times:
        words += " Horizontal bars hold half of the rounds in which a time was taken."
    caption = (
        f"{capital(metric.title)}{title_images(study)} ({epochs_rule(study, length=False)}) "
        f"against what {with_article(study.axis)} costs{where}: {corner} left is better. "
        "Memory is what the forward pass keeps for the backward pass. "
        f"{words} {how_timed(study.cost_pass)}"
    )
    return [FigureSpec(f"{slug(metric)}-by-cost", f"{what} against cost", caption, panels)]


def _time(row: Row) -> float | None:
    return milliseconds(row.cost)


def _saved(row: Row) -> float | None:
    saved = row.cost.get("saved_bytes_per_image")
    return None if saved is None else saved / 2**20


def _panel(
    study: Study,
    rows: list[Row],
    styles: dict[str, Style],
    label: str,
    cost: Callable[[Row], float | None],
    spreads: dict[str, float],
) -> Callable[[Axes], None]:
    """`spreads`: by run, the part of its cost that is drawn to both sides of it."""

    def draw(ax: Axes) -> None:
        right = 0.0
        for row in rows:
            x, style = cost(row), styles[row.labels[study.axis]]
            if x is None or row.result is None:
                continue
            full = row.status == "finished"
            around = x * max((spreads[name] for name in row.runs if name in spreads), default=0.0)
            right = max(right, x + around)
            sizes = bars(study.metric, [row.result])
            ax.errorbar(x, row.result.mean, yerr=sizes, xerr=around or None, ls="none",
                        color=style.color, marker=style.marker, ms=8, capsize=3,
                        mfc=style.color if full else "white",
                        label=row_name(study, row))  # fmt: skip
        ax.margins(x=0.15, y=0.15)
        ax.set_xlim(0, 1.1 * right)
        ax.set_xlabel(label)
        ax.set_ylabel(axis_label(study.metric, study.metric.title))

    return draw
