"""How figures are written: as SVG, PDF and PNG, with the same bytes every time.

A figure is a list of panels. `render_files` draws them together for figures/*.svg, *.pdf and *.png;
`render_panel` draws one alone for the page, where panels stand side by side on a wide screen and
below each other on a phone.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text

from groupnorm.study.report.figures.style import FigureSpec, Panel

Column = Literal["single", "double"]
# Width in inches of a figure for one column of a page, and for both.
COLUMN_WIDTHS: dict[Column, float] = {"single": 3.3, "double": 6.9}
FONT = "DejaVu Sans"
_SIMILAR_FONTS = "Verdana, sans-serif"  # as wide, for an SVG where the font is not installed
PNG_DPI = 300
_EDGE = 0.03  # inches that a name on an axis stays away from the edge
_PAGE_ROW = 8.4  # inches of the panels that stand side by side in a page
_PAGE_ALONE = 4.6  # inches of a panel that stands alone there

_RC = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelsize": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "font.family": FONT,
    "font.size": 10,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 6,
    "path.simplify": False,
    "pdf.fonttype": 42,  # TrueType: text stays text, and journals take it
    "svg.fonttype": "none",
    "text.parse_math": False,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
}
# What differs at the width of a column.
_COLUMN_RC = {
    "axes.labelsize": 8.5,
    "axes.titlesize": 8.5,
    "font.size": 8,
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}


def render_files(spec: FigureSpec, column: Column | None = None) -> dict[str, bytes]:
    """The whole figure as {"svg": ..., "pdf": ..., "png": ...}; the same data give the same bytes.

    Args:
        column: draw it as wide as one column of a paper or as both, with letters of 8 to 9 points;
            in one column panels stand below each other. None: each panel at its own size.
    """
    columns = 1 if column == "single" else min(spec.columns, len(spec.panels))
    rows = [spec.panels[i : i + columns] for i in range(0, len(spec.panels), columns)]
    widths = [max(row[c].width for row in rows if c < len(row)) for c in range(columns)]
    heights = [max(panel.height for panel in row) for row in rows]
    width = sum(widths)
    if column:
        shrink = min(1.0, COLUMN_WIDTHS[column] / width)
        width, heights = COLUMN_WIDTHS[column], [shrink * height for height in heights]
    with figure_style(spec.name, column):
        figure = lay_out(rows, widths, heights, width)
        return {"svg": _svg(figure, spec.name), "pdf": _pdf(figure), "png": _png(figure)}


def page_rows(spec: FigureSpec) -> list[list[tuple[int, float]]]:
    """How a page arranges the panels of a figure: rows of (index, width in inches)."""
    rows = []
    for start in range(0, len(spec.panels), 2):
        panels = spec.panels[start : start + 2]
        whole = _PAGE_ALONE if len(panels) == 1 else _PAGE_ROW
        share = whole / sum(panel.width for panel in panels)
        rows.append([(start + i, share * panel.width) for i, panel in enumerate(panels)])
    return rows


def render_panel(spec: FigureSpec, index: int, width: float | None = None) -> str:
    """One panel as an <svg> element for a page; every id in it starts with the panel's name.

    Args:
        width: in inches; by default the panel's own. The height grows with it.
    """
    panel = spec.panels[index]
    width = width or panel.width
    name = f"{spec.name}-{index}"
    with figure_style(name):
        figure = lay_out([[panel]], [1.0], [panel.height * width / panel.width], width)
        text = _svg(figure, name).decode()
    return text[text.index("<svg") :].rstrip() + "\n"


def missing_letters(text: str) -> str:
    """The letters of a text that the font of the figures cannot draw."""
    known = get_font(findfont(FontProperties(family=FONT))).get_charmap()
    return "".join(dict.fromkeys(letter for letter in text if ord(letter) not in known))


@contextmanager
def figure_style(name: str, column: Column | None = None) -> Iterator[None]:
    """Matplotlib's own defaults and ours, whatever the user's matplotlibrc says."""
    more = _COLUMN_RC if column else {}
    settings: Any = {**_RC, **more, "svg.hashsalt": f"groupnorm-{name}"}
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        yield


def lay_out(
    rows: Sequence[Sequence[Panel]],
    widths: Sequence[float],
    heights: Sequence[float],
    width: float,
) -> Figure:
    """Draw panels as one figure and place everything, once for all formats.

    Args:
        rows: the panels; every row but the last is full.
        widths: of the columns, in proportion.
        heights: of the rows, in inches.
        width: of the figure, in inches. It grows in height by its legend.
    """
    figure = Figure(figsize=(width, sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(rows), len(widths), width_ratios=widths, height_ratios=heights)
    for i, row in enumerate(rows):
        for j, panel in enumerate(row):
            panel.draw(figure.add_subplot(grid[i, j]))
    _legend(figure)
    figure.draw_without_rendering()
    changed = [_break_title(axes) | _turn_crowded_names(axes) for axes in figure.axes]
    if any(changed):
        figure.draw_without_rendering()
    _leave_room_for_names(figure)
    figure.set_layout_engine(None)  # "none" would have each format draw twice
    return figure


_LEGEND_SHARE = 0.94
"""Of the figure's width, at most: letters are up to 3 % wider in a file than they are measured."""


def _legend(figure: Figure) -> None:
    """One legend under all axes; the figure grows by its height, so that the axes keep theirs."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if len(found) < 2:
        return
    names = list(found)
    room = _LEGEND_SHARE * figure.bbox.width
    for columns in range(len(found), 0, -1):
        box, text = _place_legend(figure, found, names, columns)
        if box <= room:
            break
    else:
        share = (room - (box - text)) / text
        names = [_broken(name, max(map(len, names)), share) for name in names]
        _place_legend(figure, found, names, 1)
    width, height = figure.get_size_inches()
    legend_height = figure.legends[0].get_window_extent().height
    figure.set_size_inches(width, height + legend_height / figure.dpi)


def _place_legend(
    figure: Figure, handles: dict[str, Any], names: Sequence[str], columns: int
) -> tuple[float, float]:
    """Put a legend in place of the one that is there: its width, and that of its longest name."""
    for legend in list(figure.legends):
        legend.remove()
    legend = figure.legend(
        list(handles.values()), names, loc="outside lower center", ncols=columns,
        columnspacing=1.4, handlelength=2.0,
    )  # fmt: skip
    texts = [text.get_window_extent().width for text in legend.get_texts()]
    return legend.get_window_extent().width, max(texts)


def _break_title(axes: Axes) -> bool:
    """Let a title that is longer than its axes are wide go on in another line."""
    text = axes.get_title(loc="left")
    titles = [c for c in axes.get_children() if isinstance(c, Text) and text == c.get_text() != ""]
    for title in titles:
        share = axes.bbox.width / title.get_window_extent().width
        title.set_text(_broken(text, max(map(len, text.splitlines())), share))
    return axes.get_title(loc="left") != text


def _broken(text: str, letters: int, share: float) -> str:
    """A text whose lines have at most that share of so many letters."""
    if share >= 1:
        return text
    most = max(8, int(letters * share) - 2)
    lines = text.splitlines()
    return "\n".join(textwrap.fill(line, most, break_on_hyphens=False) for line in lines)


def _turn_crowded_names(axes: Axes) -> bool:
    """Write the names along the bottom aslant where one would run into the next."""
    names = [label for label in axes.get_xticklabels() if label.get_text()]
    boxes = sorted((name.get_window_extent() for name in names), key=lambda box: box.x0)
    crowded = any(left.x1 > right.x0 for left, right in pairwise(boxes))
    if crowded:
        for name in names:
            name.set(rotation=25, ha="right", rotation_mode="anchor")
    return crowded


def _leave_room_for_names(figure: Figure) -> None:
    """Move the axes away from names that would touch the left edge.

    The layout measures text at the resolution of a screen, where hinting makes long lines narrower
    than they are in the files.
    """
    names = [name for axes in figure.axes for name in axes.get_yticklabels() if name.get_text()]
    right = [name.get_window_extent().x1 / figure.dpi for name in names]
    printed = RendererAgg(1, 1, PNG_DPI)  # type: ignore[no-untyped-call]
    widths = [name.get_window_extent(printed).width / PNG_DPI for name in names]
    ends = [end - width for end, width in zip(right, widths, strict=True)]
    missing = _EDGE - min(ends, default=_EDGE)
    engine = figure.get_layout_engine()
    if missing > 0 and isinstance(engine, ConstrainedLayoutEngine):
        share = missing / figure.get_figwidth()
        engine.set(rect=(share, 0.0, 1.0 - share, 1.0))
        figure.draw_without_rendering()


def _svg(figure: Figure, name: str) -> bytes:
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing)
    text = re.sub(r"<!--.*?-->\n?", "", buffer.getvalue(), flags=re.DOTALL)
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = text.replace(f"'{FONT}'", f"'{FONT}', {_SIMILAR_FONTS}")
    # matplotlib numbers its groups from one in every file: make ids unique over the page.
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    return text.encode()


def _pdf(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    nothing = dict.fromkeys(("CreationDate", "Creator", "Producer"))
    figure.savefig(buffer, format="pdf", metadata=nothing)
    return buffer.getvalue()


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=PNG_DPI, metadata={"Software": None})
    return buffer.getvalue()
