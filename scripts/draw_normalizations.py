"""Draw docs/normalizations.png, the figure of docs/normalizations.md, from one definition.

The one definition behind BN, LN, IN and GN: over which set S_i the statistics are taken.

Wu & He 2018, section 3, write every one of them as xhat_i = (x_i - mean(S_i)) / std(S_i), and give
the sets by which coordinates an index k shares with i (equations 3 to 7). Here a set is three
numbers: how far it reaches along N, along C and along the positions. Index k is in S_i when both
fall into the same block along each axis::

    floor(k_a / b_a) = floor(i_a / b_a)    for a = N, C, position

The figure shows which values share their statistics, in the manner of the paper's Figure 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Polygon
from numpy.typing import NDArray
from torch import Tensor

from groupnorm.ops.group_norm.reference import statistics_dtype
from groupnorm.spec import NormSpec
from groupnorm.study.report.figures.render import render_files
from groupnorm.study.report.figures.style import BLUE, GREY, FigureSpec, Panel

Blocks = tuple[int, int, int]


def statistics_blocks(
    spec: str | NormSpec, shape: Sequence[int], batch_per_worker: int | None = None
) -> Blocks:
    """The block lengths (along N, C, positions) of the sets of a norm on input of this shape.

    For input (N, C, *) with S positions in all::

        bn     (N, 1, S)       bn of n images per worker   (n, 1, S)
        ln     (1, C, S)       ln2d                        (1, C, 1)
        in     (1, 1, S)       gn with G groups            (1, C / G, S)

    Args:
        spec: one of these kinds, syncbn, or brn, whose statistics of the batch are those of bn.
        shape: (N, C, *).
        batch_per_worker: n, for bn and brn; None for N.

    Raises:
        ValueError: the norm takes no mean and variance over a set, the shape has no channels, or N
            is not a multiple of batch_per_worker.
    """
    spec = NormSpec.parse(spec)
    if len(shape) < 2:
        raise ValueError(f"expected a shape (N, C, *), got {tuple(shape)}")
    n, c, *spatial = shape
    positions = math.prod(spatial)
    if spec.kind in ("bn", "brn", "syncbn"):
        images = batch_per_worker if batch_per_worker and spec.kind != "syncbn" else n
        if n % images:
            raise ValueError(
                f"the batch must be a multiple of batch_per_worker, got {n} images and "
                f"batch_per_worker={images}"
            )
        return images, 1, positions
    if spec.kind in ("gn", "ln", "in"):
        return 1, c // spec.num_groups(c), positions
    if spec.kind == "ln2d":
        return 1, c, 1
    raise ValueError(f"{spec.kind} does not take mean and variance over a set of positions")


def statistics_set(shape: Sequence[int], blocks: Blocks, index: tuple[int, int, int]) -> Tensor:
    """S_i as a mask (N, C, S): True at every k that shares its statistics with i.

    Args:
        shape: (N, C, *), S positions in all.
        blocks: as `statistics_blocks` gives them.
        index: i, as (image, channel, position).
    """
    mask = torch.ones(())
    sizes = (shape[0], shape[1], math.prod(shape[2:]))
    for size, block, at in zip(sizes, blocks, index, strict=True):
        mask = mask[..., None] * (torch.arange(size) // block == at // block)
    return mask.bool()


def normalize_over_sets(input: Tensor, blocks: Blocks, eps: float) -> Tensor:
    """xhat_i = (x_i - mean(S_i)) / sqrt(var(S_i) + eps), the variance biased.

    A definition to read and to test with: it computes in the statistics' type and returns that, in
    the input's shape. The layers equal it, before their scale and shift.

    Args:
        input: (N, C, *).
        blocks: lengths that divide N, C and the number of positions.

    Raises:
        ValueError: a length does not divide its axis.
    """
    n, c = input.shape[:2]
    sizes = (n, c, math.prod(input.shape[2:]))
    if any(size % block for size, block in zip(sizes, blocks, strict=True)):
        raise ValueError(f"blocks {blocks} do not divide (N, C, positions) = {sizes}")
    split = [part for size, b in zip(sizes, blocks, strict=True) for part in (size // b, b)]
    x = input.to(statistics_dtype(input.dtype)).reshape(split)
    axes = (1, 3, 5)
    mean = x.mean(axes, keepdim=True)
    var = ((x - mean) ** 2).mean(axes, keepdim=True)
    return ((x - mean) / torch.sqrt(var + eps)).reshape(input.shape)


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


FIGURE = Path(__file__).parent.parent / "docs" / "normalizations.png"


def main() -> None:
    """Write the figure."""
    FIGURE.write_bytes(render_files(sets_figure())["png"])
    print(f"written: {FIGURE}")


if __name__ == "__main__":
    main()
