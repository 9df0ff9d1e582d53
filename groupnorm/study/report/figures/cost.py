"""The figure of error against cost: time and memory for each norm."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.axes import Axes

from groupnorm.study.report.figures.errors import bars
from groupnorm.study.report.figures.style import ERROR_LABEL, FigureSpec, Panel, Style, norm_styles
from groupnorm.study.results.costs import how_timed, milliseconds
from groupnorm.study.results.rows import Row, Study
from groupnorm.study.results.rules import epochs_rule, title_images


def cost_figures(study: Study, rows: list[Row]) -> list[FigureSpec]:
    """Error against time and against saved memory at the largest batch; none without costs.

    There is no panel of time unless it was taken in turns (`cost_pass`), with a spread that leaves
    something to compare.
    """
    if not rows:
        return []
    batch = max(row.labels["batch_per_worker"] for row in rows)
    here = [row for row in rows if row.labels["batch_per_worker"] == batch and row.error]
    styles = norm_styles(row.labels["norm"] for row in rows)  # as in the other figures
    axes: tuple[tuple[str, str, Callable[[Row], float | None], dict[str, float]], ...] = (
        ("forward and backward (ms per image)", "time per image", _time, study.cost_pass.spreads),
        ("saved for backward (MiB per image)", "memory saved per image", _saved, {}),
    )
    panels = [
        Panel(
            _panel(study, here, styles, label, cost, spreads),
            f"Error against {words}",
            4.0,
            3.4,
        )
        for label, words, cost, spreads in axes
        if any(cost(row) is not None for row in here)
    ]
    if not panels:
        return []
    words = "Bars are 95 % intervals of means over seeds (Student's t)."
    if not any(row.error and row.error.interval for row in here):
        words = "A single seed has no interval."
    if study.cost_pass.times:
        words += " Horizontal bars hold half of the rounds in which a time was taken."
    caption = (
        f"Top-1 error{title_images(study)} ({epochs_rule(study, length=False)}) against what a "
        f"norm costs, at {batch} images per worker: lower left is better. Memory is what the "
        "forward pass keeps for the backward pass. "
        f"{words} {how_timed(study.cost_pass)}"
    )
    return [FigureSpec("error-by-cost", "Error against cost", caption, panels)]


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
            x, norm = cost(row), row.labels["norm"]
            if x is None or row.error is None:
                continue
            full = row.status == "finished"
            around = x * max((spreads[name] for name in row.runs if name in spreads), default=0.0)
            right = max(right, x + around)
            ax.errorbar(x, row.error.mean, yerr=bars([row.error]), xerr=around or None, ls="none",
                        color=styles[norm].color, marker=styles[norm].marker, ms=8, capsize=3,
                        mfc=styles[norm].color if full else "white",
                        label=study.called(norm))  # fmt: skip
        ax.margins(x=0.15, y=0.15)
        ax.set_xlim(0, 1.1 * right)
        ax.set_xlabel(label)
        ax.set_ylabel(ERROR_LABEL)

    return draw
