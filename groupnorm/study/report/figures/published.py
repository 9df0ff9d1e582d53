"""The small panels of published numbers beside a study's own, one for each kind of report."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from groupnorm.study.report.figures.style import (
    BATCH_LABEL,
    DASHES,
    GREY,
    KIND_COLORS,
    PAPER_BACKGROUND,
    Panel,
    log_axis,
    name_axis,
    norm_styles,
    with_margin,
)
from groupnorm.study.results.labels import short_names
from groupnorm.study.results.published import (
    DIVISIONS,
    Published,
    PublishedClips,
    PublishedValue,
    batch_of,
    published_clips,
    published_text,
    results_by_norm,
    values,
)
from groupnorm.study.results.wording import axis_label, noun, per_worker, plural, rank
from groupnorm.training.metric import Metric

# What one group, and one channel per group, are called.
EXTREMES = {"groups": "LN", "size": "IN"}
_WIDTH = 2.7


def described(table: Published) -> str:
    """The table in a caption, e.g. "the paper's own numbers (Wu & He 2018, Table 1; ...)"."""
    whose = "the paper's own numbers" if table.is_the_papers else "published numbers"
    return f"{whose} ({table.source}; {table.setting})"


def batch_panel(table: Published, metric: Metric) -> Panel:
    """Results against images per worker, a line for each norm."""
    sizes = table.data["batch_per_worker"]
    lines: dict[str, list[PublishedValue]] = {}
    for found in values(table):
        lines.setdefault(found.norm, []).append(found)
    styles, names = norm_styles(lines), short_names(lines)
    highest = max(lines, key=lambda norm: lines[norm][-1].result)
    ends = [line[-1].result for line in lines.values()]
    everything = [found.result for line in lines.values() for found in line]
    close = 0.15 * (max(everything) - min(everything))

    def draw(ax: Axes) -> None:
        log_axis(ax, sizes, BATCH_LABEL)
        for norm, line in lines.items():
            xs = [v.batch_per_worker for v in line if v.batch_per_worker is not None]
            results = [v.result for v in line]
            color = styles[norm].color
            ax.plot(xs, results, color=color, marker=styles[norm].marker)
            spreads = [v.spread or 0.0 for v in line]
            if any(spreads):
                low = [mean - spread for mean, spread in zip(results, spreads, strict=True)]
                high = [mean + spread for mean, spread in zip(results, spreads, strict=True)]
                ax.fill_between(xs, low, high, color=color, alpha=0.18, linewidth=0)
            # The line that ends highest would leave the panel with a name at its end.
            index, where = (max(-2, -len(line)), (-4, 6)) if norm == highest else (-1, (8, 8))
            if any(0 < end - results[-1] < close for end in ends):
                where = (8, -15)
            ax.annotate(names[norm], (xs[index], results[index]), where, color=color,
                        textcoords="offset points", ha="right", weight="bold")  # fmt: skip
        _frame(ax, table, metric)

    return Panel(draw, f"{_whose(table, 'curve')}: {table.source}, {table.setting}", _WIDTH, 2.9)


def norm_panel(table: Published, metric: Metric, batch: int | None, height: float) -> Panel:
    """Result per norm, best at the top, of a table for which `has_norms` is true.

    Its title has the images per worker, when they are known.
    """
    theirs = batch_of(table, batch)
    results = results_by_norm(table, batch)
    styles, names = norm_styles(results), short_names(results)
    ranks = {norm: (rank(metric, result), norm) for norm, result in results.items()}
    worst_first = sorted(results, key=lambda norm: ranks[norm], reverse=True)

    def draw(ax: Axes) -> None:
        for y, norm in enumerate(worst_first):
            ax.plot(results[norm], y, styles[norm].marker, color=styles[norm].color, ms=8)
            ax.annotate(published_text(results[norm]), (results[norm], y), (0, 9), ha="center",
                        textcoords="offset points", size=9)  # fmt: skip
        name_axis(ax, [names[norm] for norm in worst_first])
        ax.margins(x=0.15)
        more = f"\n{per_worker(theirs)}" if theirs else ""
        _frame(ax, table, metric, along_x=True, more=more)

    alt = f"{_whose(table, plural(metric))}: {table.source}, {table.setting}"
    return Panel(draw, alt, _WIDTH, height)


def group_panels(table: Published, metric: Metric, divisions: Sequence[str]) -> list[Panel]:
    """Results by group division, one panel for each of the divisions that the table has."""
    found = [v for v in values(table) if v.division in divisions]
    limits = with_margin(v.result for v in found)

    def panel(division: str) -> Panel:
        line = [v for v in found if v.division == division]
        xs = [v.value for v in line if v.value is not None]

        def draw(ax: Axes) -> None:
            log_axis(ax, xs, DIVISIONS[division], EXTREMES[division])
            ax.plot(xs, [v.result for v in line], color=KIND_COLORS["gn"], marker="s")
            if limits is not None:
                ax.set_ylim(limits)
            _frame(ax, table, metric)

        alt = f"{_whose(table, noun(metric))} by {DIVISIONS[division]}: {table.source}"
        return Panel(draw, alt, height=2.5)

    return [panel(division) for division in divisions if division in table.data]


def clip_panel(table: Published, metric: Metric) -> Panel:
    """Results against the length of the clips, a line for each norm and clips per worker."""
    lines: dict[tuple[str, int], list[PublishedClips]] = {}
    for found in published_clips(table):
        if metric.name in found.results:
            lines.setdefault((found.norm, found.batch_per_worker), []).append(found)
    frames = sorted({found.frames for line in lines.values() for found in line})
    sizes = sorted({batch for _, batch in lines}, reverse=True)
    styles = norm_styles(norm for norm, _ in lines)
    names = short_names(styles)

    def draw(ax: Axes) -> None:
        for (norm, batch), line in lines.items():
            xs = [frames.index(found.frames) for found in line]
            results = [found.results[metric.name] for found in line]
            style, dashes = styles[norm], DASHES[sizes.index(batch) % len(DASHES)]
            inside = "white" if len(line) == 1 else style.color
            ax.plot(xs, results, color=style.color, marker=style.marker, mfc=inside, ls=dashes)
            # what has one length only is named on its left, away from the other lines
            where, side = ((-7, -3), "right") if len(line) == 1 else ((7, -3), "left")
            ax.annotate(f"{names[norm]}, N = {batch}", (xs[-1], results[-1]), where, ha=side,
                        textcoords="offset points", color=style.color, size=9)  # fmt: skip
        ax.set_xticks(range(len(frames)), [str(count) for count in frames])
        ax.set_xlim(-1.1, len(frames) + 0.1)
        ax.margins(y=0.08)
        ax.grid(visible=False, axis="x")
        ax.set_xlabel("frames of a clip")
        _frame(ax, table, metric)

    return Panel(draw, f"{_whose(table, plural(metric))}: {table.source}, {table.setting}", 3.4)


def _whose(table: Published, what: str) -> str:
    return f"The paper's {what}" if table.is_the_papers else f"Published {what}"


def _frame(
    ax: Axes, table: Published, metric: Metric, *, along_x: bool = False, more: str = ""
) -> None:
    ax.set_facecolor(PAPER_BACKGROUND)
    source = str(table.source) if table.is_the_papers else table.owner
    ax.set_title(f"{source}\n{table.model} on {table.dataset}{more}", color=GREY, size="medium")
    label = axis_label(metric, metric.title)
    if along_x:
        ax.set_xlabel(label)
    else:
        ax.set_ylabel(label)
