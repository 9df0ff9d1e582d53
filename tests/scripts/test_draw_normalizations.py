"""One definition of the sets, the layers that equal it, and the figure that shows it."""

import io
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch

from groupnorm.layers import GroupNorm, norm_layer
from groupnorm.study.report.figures.render import render_files
from scripts.draw_normalizations import (
    PANELS,
    SHAPE,
    cube,
    faces,
    normalize_over_sets,
    sets_figure,
    statistics_blocks,
    statistics_set,
)
from tests.tolerances import FONTS, LAYER, bound

DOCS = Path(__file__).parent.parent.parent / "docs"
SPECS = ["bn", "syncbn", "ln", "in", "gn:groups=2", "gn:groups=4", "gn:size=2", "ln2d"]
SHAPES = [(6, 8, 5), (6, 8, 5, 3), (6, 8, 2, 3, 4), (1, 8, 4, 4)]


def data(shape, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype) * 2 + 1


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_layers_equal_the_definition(spec, shape, dtype):
    layer = norm_layer(spec)(8, dtype=dtype)
    x = data(shape, dtype)
    true = normalize_over_sets(x.double(), statistics_blocks(spec, shape), layer.eps)
    y = layer(x)
    largest = float(true.abs().max())
    assert (y - true).abs().max() <= bound(dtype, 5, 2 * largest, largest)


@pytest.mark.parametrize("images", [6, 3, 2, 1])
@pytest.mark.parametrize("kind", ["bn", "brn:r=1,d=0"])
def test_per_worker_batch_norm_equals_the_definition(images, kind):
    x = data((6, 8, 5, 3))
    blocks = statistics_blocks(kind, x.shape, batch_per_worker=images)
    layer = norm_layer(kind, batch_per_worker=images)(8, dtype=torch.float64)
    assert torch.allclose(layer(x), normalize_over_sets(x, blocks, 1e-5))


@pytest.mark.parametrize("spec", SPECS)
def test_the_definition_takes_the_statistics_of_the_set(spec):
    """Index by index, from the mask that equations 3 to 7 describe."""
    x = data((4, 8, 2, 3))
    blocks = statistics_blocks(spec, x.shape)
    xhat, flat = normalize_over_sets(x, blocks, 1e-5).view(4, 8, 6), x.view(4, 8, 6)
    for index in [(0, 0, 0), (1, 3, 5), (3, 7, 2)]:
        members = flat[statistics_set(x.shape, blocks, index)]
        expected = (flat[index] - members.mean()) / (members.var(correction=0) + 1e-5).sqrt()
        assert torch.allclose(xhat[index], expected)


def test_the_sets_are_those_of_the_paper():
    """Equations 3, 4, 5 and 7, written out."""
    shape, i = (4, 8, 6), (1, 3, 2)
    n, c, _ = torch.meshgrid(*(torch.arange(size) for size in shape), indexing="ij")
    same_n, same_c = n == i[0], c == i[1]
    same_group = torch.floor(c / (8 / 2)) == (i[1] // (8 // 2))
    paper = {"bn": same_c, "ln": same_n, "in": same_n & same_c, "gn:groups=2": same_n & same_group}
    for spec, expected in paper.items():
        assert torch.equal(statistics_set(shape, statistics_blocks(spec, shape), i), expected)


def test_layer_and_instance_norm_are_group_norms():
    shape = (2, 8, 5)
    assert statistics_blocks("ln", shape) == statistics_blocks("gn:groups=1", shape) == (1, 8, 5)
    assert statistics_blocks("in", shape) == statistics_blocks("gn:size=1", shape) == (1, 1, 5)
    x = data(shape, torch.float32)
    assert torch.equal(norm_layer("ln")(8)(x), GroupNorm(1, 8)(x))
    assert torch.equal(norm_layer("in")(8)(x), GroupNorm(8, 8)(x))
    assert torch.allclose(norm_layer("ln")(8)(x), torch.layer_norm(x, (8, 5)), atol=LAYER)
    assert torch.allclose(norm_layer("in")(8)(x), torch.nn.InstanceNorm1d(8)(x), atol=LAYER)


def test_batch_norm_of_one_image_is_instance_norm():
    shape = (1, 8, 4, 4)
    assert statistics_blocks("bn", shape) == statistics_blocks("in", shape)


@pytest.mark.parametrize("kind", ["frn", "evonorm_s0", "frozenbn", "none"])
def test_other_norms_raise(kind):
    with pytest.raises(ValueError, match=f"{kind} does not take mean and variance"):
        statistics_blocks(kind, (2, 8, 3))


def test_other_errors():
    with pytest.raises(ValueError, match=r"shape \(N, C, \*\), got \(3,\)"):
        statistics_blocks("bn", (3,))
    with pytest.raises(ValueError, match="got 6 images and batch_per_worker=4"):
        statistics_blocks("bn", (6, 8, 3), batch_per_worker=4)
    with pytest.raises(ValueError, match=r"\(4, 1, 3\) do not divide .* \(6, 8, 3\)"):
        normalize_over_sets(torch.randn(6, 8, 3), (4, 1, 3), 1e-5)


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
    assert np.abs(drawn - shown).mean() < FONTS
