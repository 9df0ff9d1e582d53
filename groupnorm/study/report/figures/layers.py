"""The figure of a conversion: error and offset share of each layer along the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from matplotlib.axes import Axes

from groupnorm.printable import printable
from groupnorm.study.report.figures.style import BLUE, VERMILLION, FigureSpec, Panel

if TYPE_CHECKING:
    from groupnorm.conversion import ConversionReport
    from groupnorm.conversion.report import ConvertedLayer

_ROW = 0.2  # inches of a layer, in networks that are not so deep
_TALLEST = 14.0  # inches of all layers


def layers_figure(report: ConversionReport) -> FigureSpec:
    """A row for each converted layer, the first at the top.

    The panels: error of its output, with the number of groups at each point, and the share of its
    variance that offsets make. The second is left out where no layer has one.
    """
    layers = [layer for layer in report.layers if layer.error is not None]
    row = min(_ROW, _TALLEST / max(len(layers), 1))
    height = max(1.0, row * len(layers)) + 0.7
    panels = [Panel(_errors(layers, row), "Error of each layer along the network", 5.2, height)]
    caption = (
        f"Each layer of a conversion to {report.to}, in the order of the network. The error is "
        "the sum of squares of what differs in the layer's output, over that about the mean of "
        "each channel, on images that nothing was fitted to. Numbers are groups."
    )
    if any(layer.offset_share is not None for layer in layers):
        panels.append(Panel(_offsets(layers, row), "Offset share of each layer", 2.8, height))
        caption += (
            " The offset share is the part of a group's variance that constant offsets make: near "
            "1 a layer hardly normalizes."
        )
    return FigureSpec("layers", "Error and offset share of each layer", caption, panels)


def _errors(layers: Sequence[ConvertedLayer], row: float) -> Callable[[Axes], None]:
    def draw(ax: Axes) -> None:
        # an error of 0, which no log axis has, stands at its left edge
        errors = [layer.error or 0.0 for layer in layers]
        least = min((error for error in errors if error > 0), default=1e-6)
        shown = [max(error, least / 2) for error in errors]
        rows = range(len(layers))
        ax.set_xscale("log")
        ax.hlines(rows, least / 4, shown, color=BLUE, lw=0.8)
        ax.plot(shown, rows, "o", color=BLUE, ms=min(5.0, 20 * row))
        for place, (layer, error) in enumerate(zip(layers, shown, strict=True)):
            ax.annotate(
                str(layer.groups or "-"), (error, place), (6, 0), textcoords="offset points",
                va="center", fontsize=_letters(row),
            )  # fmt: skip
        ax.set_xlim(least / 4, 3 * max(shown, default=1.0))
        _layers_axis(ax, [printable(layer.name or "(the network)") for layer in layers], row)
        ax.set_xlabel("error of the output (groups at each point)")

    return draw


def _offsets(layers: Sequence[ConvertedLayer], row: float) -> Callable[[Axes], None]:
    def draw(ax: Axes) -> None:
        ax.barh(range(len(layers)), [layer.offset_share or 0.0 for layer in layers], 0.6,
                color=VERMILLION)  # fmt: skip
        ax.set_xlim(0, 1)
        _layers_axis(ax, [""] * len(layers), row)
        ax.set_xlabel("offset share of the variance")

    return draw


def _layers_axis(ax: Axes, names: Sequence[str], row: float) -> None:
    """A row for every layer, the first at the top."""
    ax.set_yticks(range(len(names)), names, fontsize=_letters(row))
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(visible=False, axis="y")


def _letters(row: float) -> float:
    """The size of letters that rows of so many inches have room for."""
    return min(8.5, 72 * 0.75 * row)
