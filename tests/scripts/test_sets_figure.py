"""The figure of the sets: its coloured faces are the definition's, and docs show what is drawn."""

import io
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from groupnorm.study.report.figures.style import render_files
from scripts.draw_normalizations import PANELS, SHAPE, cube, faces, sets_figure

DOCS = Path(__file__).parent.parent.parent / "docs"


@pytest.mark.parametrize(
    ("norm", "images", "reach"),
    [
        ("bn", None, (4, 1, 4)),
        ("bn", 2, (2, 1, 4)),
        ("ln", None, (1, 6, 4)),
        ("in", None, (1, 1, 4)),
        ("gn:groups=2", None, (1, 3, 4)),
        ("ln2d", None, (1, 6, 1)),
    ],
)
def test_each_cube_shows_its_set(norm, images, reach):
    assert (norm, images) in {panel[:2] for panel in PANELS}
    mask = cube(norm, images)
    n, c, s = reach
    assert mask[:n, :c, :s].all()
    assert mask.sum() == n * c * s
    coloured = sum(inside for _, inside in faces(mask))
    side = c * s if n == SHAPE[0] else 0
    assert coloured == n * s + n * c + side


def test_faces_tile_the_three_sides_without_overlap():
    squares = [corners for corners, _ in faces(cube("in", None))]
    assert len(squares) == 4 * 4 + 4 * 6 + 6 * 4
    centres = {tuple(np.round(corners.mean(0), 6)) for corners in squares}
    assert len(centres) == len(squares)


def test_docs_show_what_is_drawn():
    """`python scripts/draw_normalizations.py` draws it anew; fonts may differ by a few pixels."""
    drawn = matplotlib.image.imread(io.BytesIO(render_files(sets_figure())["png"]))
    shown = matplotlib.image.imread(DOCS / "normalizations.png")
    assert drawn.shape == shown.shape
    assert np.abs(drawn - shown).mean() < 0.01
