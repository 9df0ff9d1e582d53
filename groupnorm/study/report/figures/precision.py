"""Precision against recall: a panel for each curve that the runs record, a line for each arm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from matplotlib.axes import Axes

from groupnorm.study.metrics import titles_of
from groupnorm.study.report.figures.style import FigureSpec, Panel, Style, norm_styles
from groupnorm.study.results.labels import row_name
from groupnorm.study.results.parts import curves_of
from groupnorm.study.results.rows import Row, Study, run_status

_CAPTION = (
    "Precision at recalls of 0 to 100 %, the mean over categories, after the last epoch; the mean "
    "over finished seeds. The mean height of a curve is the metric above its panel after the last "
    "epoch. Beyond the largest recall that any category reaches, a curve lies on the axis."
)


def precision_figures(study: Study, rows: Sequence[Row]) -> list[FigureSpec]:
    """Precision against recall; none where no run records it."""
    styles = norm_styles(row.labels[study.axis] for row in rows)
    found = [
        (row_name(study, row), styles[row.labels[study.axis]], _means(study, row)) for row in rows
    ]
    titles = titles_of(study.records)
    panels = []
    for name in dict.fromkeys(name for *_, curves in found for name in curves):
        lines = [(arm, style, curves[name]) for arm, style, curves in found if name in curves]
        title = titles.get(name, name)
        panels.append(Panel(_drawer(lines, title), f"Precision against recall: {title}"))
    if not panels:
        return []
    return [FigureSpec("precision-recall", "Precision against recall", _CAPTION, panels)]


def _means(study: Study, row: Row) -> dict[str, list[float]]:
    """The mean curves of the finished runs of a row."""
    records = [study.records[name] for name in row.runs]
    curves = [curves_of(r) for r in records if run_status(r, study.metric)[0] == "finished"]
    means = {}
    for name in dict.fromkeys(name for of_run in curves for name in of_run):
        columns = zip(*(of_run[name] for of_run in curves if name in of_run), strict=True)
        means[name] = [fmean(column) for column in columns]
    return means


def _drawer(lines: Sequence[tuple[str, Style, list[float]]], title: str) -> Callable[[Axes], None]:
    def draw(ax: Axes) -> None:
        for arm, style, curve in lines:
            recalls = [100 * place / (len(curve) - 1) for place in range(len(curve))]
            ax.plot(recalls, curve, color=style.color, ls=style.dashes, lw=1.6, label=arm)
        ax.set_xlim(0, 100)
        ax.set_ylim(0, 101)
        ax.set_xlabel("recall (%)")
        ax.set_ylabel("precision (%)")
        ax.set_title(title)

    return draw
