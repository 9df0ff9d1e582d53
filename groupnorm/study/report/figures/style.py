"""How figures look: colours, markers, axes, and the panels that a figure is made of."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

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
BATCH_LABEL = "images per worker (N)"
PAPER_BACKGROUND = "#f3f1ec"
_NAME_LETTERS = 24  # of a name on an axis, before it goes on in a second line


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
    return [to_hex(colormap(0.75 * i / max(count - 1, 1))) for i in range(count)]


def log_axis(ax: Axes, values: Sequence[int], label: str, one: str | None = None) -> None:
    """A log2 axis from the largest value on the left to the smallest on the right."""
    ax.set_xscale("log", base=2)
    names = [f"1\n({one})" if one and value == 1 else str(value) for value in values]
    ax.set_xticks(list(values), names)
    ax.minorticks_off()
    if values:
        ax.set_xlim(max(values) * 1.3, min(values) / 1.3)
    ax.set_xlabel(label)


def with_margin(values: Iterable[float]) -> tuple[float, float] | None:
    """The limits of an axis on which all values are seen, with room at both ends; None for none."""
    shown = list(values)
    if not shown:
        return None
    margin = 0.08 * (max(shown) - min(shown)) or 0.5
    return min(shown) - margin, max(shown) + margin


def name_axis(ax: Axes, names: Sequence[str]) -> None:
    """A row for every name, the first at the bottom; a long name takes several lines."""
    ax.set_yticks(range(len(names)), [_in_lines(name) for name in names])
    ax.set_ylim(-0.6, len(names) - 0.3)
    ax.grid(visible=False, axis="y")


def name_height(names: Iterable[str]) -> float:
    """Inches between two rows of `name_axis`, so that no name runs into the next."""
    return max([0.42, *(0.21 * len(_in_lines(name).splitlines()) for name in names)])


def _in_lines(name: str) -> str:
    return textwrap.fill(name, _NAME_LETTERS, break_long_words=False)
