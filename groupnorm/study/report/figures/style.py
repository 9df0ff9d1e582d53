"""How figures look and how they are written: colours, fonts, and the same bytes every time.

A figure is a list of panels. `render_files` draws them together for figures/*.svg and *.png;
`render_panel` draws one alone for the page, where panels stand side by side on a wide screen and
below each other on a phone.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from groupnorm.spec import NormSpec
from groupnorm.study.results.labels import of_kind

Color = str
# Okabe & Ito's colour-blind-safe palette, without its yellow (unreadable on white).
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK = PALETTE = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000",
)  # fmt: skip
MARKERS = "osD^vPX<>*"
DASHES = ("-", "--", ":", "-.")
# These kinds look the same in every study and in the paper's panels.
KIND_COLORS = {"bn": BLUE, "gn": VERMILLION, "ln": GREEN, "in": PURPLE}
GREY = "#5a5a5a"
ERROR_LABEL = "validation error (%)"
PAPER_BACKGROUND = "#f3f1ec"

_RC = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelsize": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 6,
    "path.simplify": False,
    "svg.fonttype": "path",
    "text.parse_math": False,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
}


@dataclass(frozen=True)
class Style:
    """Colour and marker of one line."""

    color: Color
    marker: str = "o"
    dashes: str = "-"


@dataclass(frozen=True)
class Panel:
    """One set of axes: how to draw it, what it shows in words, and its size in inches."""

    draw: Callable[[Axes], None]
    alt: str
    width: float = 4.0
    height: float = 3.0


@dataclass(frozen=True)
class FigureSpec:
    """A figure of the report: panels in reading order, `columns` of them in a row."""

    name: str
    title: str
    caption: str
    panels: list[Panel]
    columns: int = 2


def norm_styles(norms: Iterable[str]) -> dict[str, Style]:
    """A colour and marker for each norm, which depend on the set of spec strings alone.

    BN, GN, LN and IN keep their colour in every study; the others take what is left in the order
    of their strings. When colours run out they start again, dashed, then dotted, then both.
    """
    specs = sorted(set(norms))
    taken: dict[str, Style] = {}
    for kind, color in KIND_COLORS.items():
        plain = of_kind(NormSpec(kind), specs)
        if plain:
            taken[plain[0]] = Style(color, MARKERS[list(KIND_COLORS).index(kind)])
    used = {style.color for style in taken.values()}
    free = [color for color in PALETTE if color not in used]
    for index, spec in enumerate(spec for spec in specs if spec not in taken):
        # Every palette colour is the first GN's or BN's when nothing is free any more.
        color = free[index % len(free)] if free else PALETTE[index % len(PALETTE)]
        dashes = DASHES[index // len(free or PALETTE) % len(DASHES)]
        taken[spec] = Style(color, MARKERS[(len(KIND_COLORS) + index) % len(MARKERS)], dashes)
    return {spec: taken[spec] for spec in specs}


def sequence_colors(count: int) -> list[Color]:
    """`count` colours from dark to light, ordered also for the colour-blind and in grey."""
    colormap = matplotlib.colormaps["viridis"]
    return [to_hex(colormap(0.85 * i / max(count - 1, 1))) for i in range(count)]


def log_axis(ax: Axes, values: Sequence[int], label: str, one: str | None = None) -> None:
    """A log2 axis from the largest value on the left to the smallest on the right."""
    ax.set_xscale("log", base=2)
    names = [f"1\n({one})" if one and value == 1 else str(value) for value in values]
    ax.set_xticks(list(values), names)
    ax.minorticks_off()
    if values:
        ax.set_xlim(max(values) * 1.3, min(values) / 1.3)
    ax.set_xlabel(label)


def name_axis(ax: Axes, names: Sequence[str]) -> None:
    """A row for every name, the first at the bottom."""
    ax.set_yticks(range(len(names)), list(names))
    ax.set_ylim(-0.6, len(names) - 0.3)
    ax.grid(visible=False, axis="y")


def render_files(spec: FigureSpec) -> dict[str, bytes]:
    """The whole figure as {"svg": ..., "png": ...}; the same data give the same bytes."""
    with _style(spec.name):
        columns = min(spec.columns, len(spec.panels))
        rows = [spec.panels[i : i + columns] for i in range(0, len(spec.panels), columns)]
        widths = [max(row[c].width for row in rows if c < len(row)) for c in range(columns)]
        heights = [max(panel.height for panel in row) for row in rows]
        figure = Figure(figsize=(sum(widths), sum(heights)), layout="constrained")
        grid = figure.add_gridspec(len(rows), columns, width_ratios=widths, height_ratios=heights)
        for index, panel in enumerate(spec.panels):
            panel.draw(figure.add_subplot(grid[index // columns, index % columns]))
        _legend(figure)
        return {"svg": _svg(figure, spec.name), "png": _png(figure)}


def render_panel(spec: FigureSpec, index: int) -> str:
    """One panel as an <svg> element for a page; every id in it starts with the panel's name."""
    panel = spec.panels[index]
    name = f"{spec.name}-{index}"
    with _style(name):
        figure = Figure(figsize=(panel.width, panel.height), layout="constrained")
        panel.draw(figure.add_subplot())
        _legend(figure)
        text = _svg(figure, name).decode()
    return text[text.index("<svg") :].rstrip() + "\n"


@contextmanager
def _style(name: str) -> Iterator[None]:
    """Matplotlib's own defaults and ours, whatever the user's matplotlibrc says."""
    settings: Any = {**_RC, "svg.hashsalt": f"groupnorm-{name}"}
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        yield


def _legend(figure: Figure) -> None:
    """One legend under all axes; the figure grows by its height, so that the axes keep theirs."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if len(found) < 2:
        return
    width, height = figure.get_size_inches()
    letters = max(len(label) for label in found)
    columns = max(1, min(len(found), int(width / (0.6 + 0.085 * letters))))
    lines = -(-len(found) // columns)
    figure.set_size_inches(width, height + 0.2 * lines)
    figure.legend(
        list(found.values()), list(found), loc="outside lower center", ncols=columns,
        columnspacing=1.4, handlelength=2.0,
    )  # fmt: skip


def _svg(figure: Figure, name: str) -> bytes:
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing)
    text = re.sub(r"<!--.*?-->\n?", "", buffer.getvalue(), flags=re.DOTALL)
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # matplotlib numbers its groups from one in every file: make ids unique over the page.
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    return text.encode()


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()
