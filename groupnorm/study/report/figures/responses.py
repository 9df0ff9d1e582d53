"""The figure of the probed convolution's responses against epochs (the paper's Figure 6)."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from groupnorm.study.report.figures.style import FigureSpec, Panel, sequence_colors
from groupnorm.study.results.rows import Row, Study, run_status
from groupnorm.study.results.wording import per_worker
from groupnorm.study.store import Record

KEY = "response_percentiles"
Curves = dict[str, dict[int, float]]


def response_figures(study: Study, rows: list[Row]) -> list[FigureSpec]:
    """A panel per norm with a curve for every percentile; nothing when no run was probed.

    Curves are means over the finished seeds (over all seeds where none finished) at the largest
    batch per worker that was probed. All panels share one axis.
    """
    found: dict[str, tuple[int, Curves]] = {}
    for row in sorted(rows, key=lambda row: -row.labels["batch_per_worker"]):
        curves = percentile_curves(study, [study.records[name] for name in row.runs])
        if curves:
            found.setdefault(row.labels["norm"], (row.labels["batch_per_worker"], curves))
    norms = [norm for norm in dict.fromkeys(row.labels["norm"] for row in rows) if norm in found]
    if not norms:
        return []
    heights = [v for _, curves in found.values() for c in curves.values() for v in c.values()]
    margin = 0.05 * (max(heights) - min(heights)) or 0.5
    limits = (min(heights) - margin, max(heights) + margin)
    panels = [
        Panel(
            _drawer(f"{study.called(norm)}, {per_worker(found[norm][0])}", found[norm][1], limits),
            f"Percentiles of the responses of conv5_3 against epoch, {study.called(norm)}",
        )
        for norm in norms
    ]
    caption = (
        "Responses of the last 3x3 convolution, before its normalization, on a batch of evaluation "
        "images: their percentiles after every epoch, mean over seeds (the paper's Figure 6, left)."
    )
    return [FigureSpec("responses", "conv5_3 responses", caption, panels)]


def percentile_curves(study: Study, records: list[Record]) -> Curves:
    """{percentile: {epoch: mean over seeds}}; empty without any probed epoch.

    Only epochs that every counted seed has are there, so that no curve jumps where one ends.
    """
    statuses = [run_status(record, study.metric)[0] for record in records]
    done = [r for r, s in zip(records, statuses, strict=True) if s == "finished"] or records
    probed = [{row["epoch"]: row[KEY] for row in record.metrics if row.get(KEY)} for record in done]
    probed = [epochs for epochs in probed if epochs]
    if not probed:
        return {}
    common = sorted(set.intersection(*(set(epochs) for epochs in probed)))
    names = list(probed[0][common[0]]) if common else []
    return {
        name: {epoch: fmean(epochs[epoch][name] for epochs in probed) for epoch in common}
        for name in sorted(names, key=float)
    }


def _drawer(title: str, curves: Curves, limits: tuple[float, float]) -> Callable[[Axes], None]:
    def draw(ax: Axes) -> None:
        colors = sequence_colors(len(curves))
        for (name, line), color in zip(reversed(curves.items()), reversed(colors), strict=True):
            ax.plot(list(line), list(line.values()), color=color, lw=1.6, label=f"{name}%")
        ax.set_ylim(*limits)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("epoch")
        ax.set_ylabel("response")
        ax.set_title(title)

    return draw
