"""A group norm's scale goes into the layer behind it, its shift where no zeros are padded."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from groupnorm import GroupNorm
from groupnorm.export.preparation.report import SCALE
from groupnorm.export.preparation.scale import fold_scales, folded_inputs, pads_zeros
from tests.export.preparation.networks import random_affine
from tests.tolerances import CLEARLY, FORMULA_64


def folded(model, shape):
    """The network with folded scales, which computes what the model does, and the rows."""
    model = random_affine(model).double()
    network = copy.deepcopy(model)
    x = torch.randn(shape).double()
    rows = fold_scales(network, x)
    with torch.no_grad():
        torch.testing.assert_close(network(x), model(x), rtol=FORMULA_64, atol=FORMULA_64)
        torch.testing.assert_close(
            network(3 * x + 1), model(3 * x + 1), rtol=FORMULA_64, atol=FORMULA_64
        )
    return network, rows


BOTH = [
    (nn.Conv1d(8, 4, 3), (2, 8, 7)),
    (nn.Conv2d(8, 4, 1, bias=False), (2, 8, 6, 6)),
    (nn.Conv2d(8, 4, 3, groups=2, padding="valid"), (2, 8, 6, 6)),
    (nn.Conv2d(8, 8, 3, groups=8, stride=2), (2, 8, 7, 7)),
    (nn.Conv2d(8, 4, 1, padding="same"), (2, 8, 6, 6)),
    (nn.Conv2d(8, 4, 3, padding=1, padding_mode="reflect"), (2, 8, 6, 6)),
    (nn.Conv2d(8, 4, 3, padding=1, padding_mode="circular"), (2, 8, 6, 6)),
    (nn.Conv3d(8, 4, 2), (1, 8, 3, 3, 3)),
    (nn.Linear(8, 5, bias=False), (6, 8)),
]
SCALE_ALONE = [
    (nn.Conv2d(8, 4, 3, padding=1), (2, 8, 6, 6)),
    (nn.Conv2d(8, 4, 3, padding="same", bias=False), (2, 8, 6, 6)),
    (nn.ConvTranspose2d(8, 4, 2, stride=2, groups=2), (2, 8, 5, 5)),
    (nn.ConvTranspose1d(8, 8, 3, groups=8, padding=1), (2, 8, 5)),
]


@pytest.mark.parametrize(("layer", "shape"), BOTH)
def test_scale_and_shift_are_folded_where_no_zeros_are_padded(layer, shape):
    network, rows = folded(nn.Sequential(nn.GroupNorm(2, 8), layer), shape)
    assert [row.action for row in rows] == [SCALE]
    assert rows[0].detail == "scale and shift into 1"
    assert network[0].weight is None
    assert network[0].bias is None
    assert not network[0].affine


@pytest.mark.parametrize(("layer", "shape"), SCALE_ALONE)
def test_the_scale_alone_is_folded_with_padding(layer, shape):
    had_bias = layer.bias is not None
    network, rows = folded(nn.Sequential(nn.GroupNorm(2, 8), layer), shape)
    assert rows[0].detail.startswith("scale into 1; the shift stays")
    assert bool((network[0].weight == 1).all())
    assert (network[1].bias is not None) == had_bias


def test_with_padding_the_shift_would_be_wrong():
    """What the padding keeps out: the border is off by about the shift."""
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 8, 3, padding=1).double()
    x, shift = torch.randn(1, 8, 6, 6).double(), torch.full((8,), 0.5).double()
    assert pads_zeros(conv)
    weight, gained = folded_inputs(conv, torch.ones(8), shift)
    assert torch.equal(weight, conv.weight)
    with torch.no_grad():
        want = conv(x + shift.view(-1, 1, 1))
        got = conv(x) + gained.view(-1, 1, 1)
    off = (want - got).abs()
    assert float(off[..., 1:-1, 1:-1].max()) < FORMULA_64
    assert float(off.max()) > CLEARLY


def test_a_scale_without_shift_leaves_nothing():
    norm = GroupNorm(2, 8, bias=False)
    network, rows = folded(nn.Sequential(norm, nn.Conv2d(8, 4, 3, padding=1)), (2, 8, 6, 6))
    assert rows[0].detail == "scale into 1"
    assert network[0].weight is None


@pytest.mark.parametrize("scale", [0.0, 1e-5])
def test_a_scale_near_zero_stays_with_its_shift(scale):
    model = random_affine(nn.Sequential(nn.GroupNorm(2, 8), nn.Conv2d(8, 4, 3, padding=1)))
    nn.init.constant_(model[0].weight[2:3], scale)
    assert fold_scales(model, torch.randn(2, 8, 6, 6)) == []
    model[1].padding = (0, 0)
    assert len(fold_scales(model, torch.randn(2, 8, 6, 6))) == 1


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Sequential(nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 4, 1)), (2, 8, 5, 5)),
        (nn.Sequential(GroupNorm(2, 8, activation="relu"), nn.Conv2d(8, 4, 1)), (2, 8, 5, 5)),
        (nn.Sequential(nn.GroupNorm(2, 8, affine=False), nn.Conv2d(8, 4, 1)), (2, 8, 5, 5)),
        # features of a linear layer behind maps are positions, not channels
        (nn.Sequential(nn.GroupNorm(2, 8), nn.Linear(8, 4)), (2, 8, 8)),
        (nn.Sequential(nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(32, 4)), (2, 8, 2, 2)),
    ],
)
def test_nothing_is_folded_where_something_stands_between(model, shape):
    assert folded(model, shape)[1] == []


def test_nothing_is_folded_into_shared_weights():
    model = nn.Sequential(nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1))
    model[3].weight = model[1].weight
    assert folded(model, (2, 8, 5, 5))[1] == []


@given(
    groups=st.sampled_from([1, 2, 4]),
    kernel=st.integers(1, 3),
    dims=st.integers(1, 3),
    transposed=st.booleans(),
)
@settings(deadline=None, max_examples=25)
def test_folded_weights_of_any_convolution(groups, kernel, dims, transposed):
    kinds = (
        (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
        if transposed
        else (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    )
    layer = kinds[dims - 1](4, 8, kernel, groups=groups).double()
    x, scale = torch.randn(1, 4, *[4] * dims).double(), torch.randn(4).double()
    weight, gained = folded_inputs(layer, scale, None)
    with torch.no_grad():
        want = layer(x * scale.view(-1, *[1] * dims))
        layer.weight.copy_(weight)
        torch.testing.assert_close(layer(x), want, rtol=FORMULA_64, atol=FORMULA_64)
    assert not bool(gained.any())
