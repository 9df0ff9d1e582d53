"""The figure of which values share their statistics, in the manner of the paper's Figure 2."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Polygon
from numpy.typing import NDArray

from groupnorm.layers import statistics_blocks, statistics_set
from groupnorm.study.figure_style import BLUE, GREY, FigureSpec, Panel

SHAPE = (4, 6, 4)  # N, C and positions of the cube
INDEX = (0, 0, 0)
PANELS = (
    ("bn", None, "Batch norm"),
    ("bn", 2, "Batch norm, 2 images a worker"),
    ("ln", None, "Layer norm (ln)"),
    ("in", None, "Instance norm (in)"),
    ("gn:groups=2", None, "Group norm, 2 groups"),
    ("ln2d", None, "Layer norm of a position (ln2d)"),
)
_WHITE = "#ffffff"
# Where one step along N, C and the positions leads on the page: N to the lower right, C up into
# the depth, positions down, as in the paper.
_STEP_N, _STEP_C, _STEP_S = np.array([(0.87, -0.28), (0.62, 0.34), (0.0, -0.8)])
_FACE = "#9cc4e0"


def sets_figure() -> FigureSpec:
    """One cube for each norm, the values that share the statistics of its nearest one in blue."""
    panels = [
        Panel(
            lambda axes, spec=spec, images=images, title=title: _draw(  # type: ignore[misc]
                axes, cube(spec, images), title
            ),
            alt=f"{title}: a cube of N, C and positions with one set of statistics in blue",
            width=3.0,
            height=2.9,
        )
        for spec, images, title in PANELS
    ]
    return FigureSpec(
        "normalizations",
        "Which values share their mean and variance",
        "In blue, the values that are normalized with one mean and one variance.",
        panels,
        columns=3,
    )


def cube(spec: str, batch_per_worker: int | None) -> NDArray[np.bool_]:
    """S_i of the figure's index for a norm, (N, C, S)."""
    blocks = statistics_blocks(spec, SHAPE, batch_per_worker)
    mask: NDArray[np.bool_] = statistics_set(SHAPE, blocks, INDEX).numpy()
    return mask


def faces(mask: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.float64], bool]]:
    """The squares of the cube's three visible sides: their corners on the page, in S_i or not."""
    n, c, s = mask.shape
    for i in range(n):  # front: N and positions, at the first channel
        for k in range(s):
            yield _square(i, 0, k, _STEP_N, _STEP_S), bool(mask[i, 0, k])
    for i in range(n):  # top: N and C, at the first position
        for j in range(c):
            yield _square(i, j, 0, _STEP_N, _STEP_C), bool(mask[i, j, 0])
    for j in range(c):  # side: C and positions, at the last image
        for k in range(s):
            yield _square(n, j, k, _STEP_C, _STEP_S), bool(mask[n - 1, j, k])


def _square(
    i: int, j: int, k: int, one: NDArray[np.float64], other: NDArray[np.float64]
) -> NDArray[np.float64]:
    corner = i * _STEP_N + j * _STEP_C + k * _STEP_S
    return np.array([corner, corner + one, corner + one + other, corner + other])


def _draw(axes: Axes, mask: NDArray[np.bool_], title: str) -> None:
    for corners, inside in faces(mask):
        color = _FACE if inside else _WHITE
        axes.add_patch(
            Polygon(corners, facecolor=color, edgecolor=BLUE if inside else GREY, linewidth=0.7)
        )
    n, c, s = mask.shape
    for text, at, turn in (
        ("N", n / 2 * _STEP_N + s * _STEP_S + (-0.15, -0.45), 0),
        ("C", c / 2 * _STEP_C + (-0.35, 0.25), 0),
        ("H, W", s / 2 * _STEP_S + (-0.4, 0.0), 90),
    ):
        axes.text(at[0], at[1], text, rotation=turn, ha="center", va="center")
    axes.set_title(title)
    axes.set_aspect("equal")
    axes.autoscale_view()
    axes.margins(0.06)
    axes.grid(visible=False)
    axes.set_axis_off()
