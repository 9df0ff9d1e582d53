"""The figure of a conversion: error and offset share of each layer along the network."""

from __future__ import annotations

import math
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
    height = max(1.2, row * len(layers)) + 0.6
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
        # a log axis has no 0, which stands at its left edge
        errors = [layer.error or 0.0 for layer in layers]
        found = [error for error in errors if error > 0] or [1.0]
        low, high = math.floor(math.log10(min(found) / 1.5)), math.ceil(math.log10(2 * max(found)))
        shown = [max(error, 10.0**low) for error in errors]
        rows = range(len(layers))
        ax.set_xscale("log")
        ax.hlines(rows, 10.0**low, shown, color=BLUE, lw=0.8)
        ax.plot(shown, rows, "o", color=BLUE, ms=min(5.0, 20 * row))
        for place, (layer, error) in enumerate(zip(layers, shown, strict=True)):
            ax.annotate(
                str(layer.groups or "-"), (error, place), (6, 0), textcoords="offset points",
                va="center", fontsize=_letters(row),
            )  # fmt: skip
        ax.set_xlim(10.0**low, 10.0**high)
        ticks = [10.0**power for power in range(low, high + 1)]
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
        _layers_axis(ax, [printable(layer.name or "(the network)") for layer in layers], row)
        ax.set_xlabel("error of the layer's output (groups at each point)")

    return draw


def _offsets(layers: Sequence[ConvertedLayer], row: float) -> Callable[[Axes], None]:
    def draw(ax: Axes) -> None:
        ax.barh(range(len(layers)), [layer.offset_share or 0.0 for layer in layers], 0.6,
                color=VERMILLION)  # fmt: skip
        ax.set_xlim(0, 1)
        _layers_axis(ax, [""] * len(layers), row)
        ax.tick_params(left=False)
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
