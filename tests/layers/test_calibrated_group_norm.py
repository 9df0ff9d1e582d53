"""GroupNorm with an affine before it and with stored statistics: by definition, state, errors."""

import copy

import pytest
import torch
from torch import nn

from groupnorm.layers import CalibratedGroupNorm, GroupNorm
from tests.tolerances import FORMULA_64


def filled(layer):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in (*layer.parameters(), *layer.buffers()):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return layer


def test_a_new_one_is_a_group_norm():
    x = torch.randn(3, 8, 5, 5)
    layer = CalibratedGroupNorm(4, 8)
    assert torch.allclose(layer(x), GroupNorm(4, 8)(x))
    assert isinstance(layer, nn.GroupNorm)


@pytest.mark.parametrize("shape", [(3, 8), (3, 8, 7), (2, 8, 3, 4), (2, 8, 2, 3, 4)])
def test_the_affine_comes_before_the_norm(shape):
    x = torch.randn(shape, dtype=torch.float64)
    layer = filled(CalibratedGroupNorm(2, 8, dtype=torch.float64, activation="relu"))
    column = (8, *[1] * (len(shape) - 2))
    v = x * layer.input_weight.view(column) + layer.input_bias.view(column)
    expected = torch.group_norm(v, 2, layer.weight, layer.bias, layer.eps).relu()
    assert (layer(x) - expected).abs().max() < FORMULA_64


@pytest.mark.parametrize("activation", [None, "gelu_tanh"])
def test_statistics_are_mixed(activation):
    x = torch.randn(3, 8, 5, dtype=torch.float64)
    layer = filled(
        CalibratedGroupNorm(
            2, 8, dtype=torch.float64, input_affine=False, hybrid=0.25, activation=activation
        )
    )
    grouped = x.view(3, 2, 20)
    mean = 0.25 * grouped.mean(2) + 0.75 * layer.stored_mean
    var = 0.25 * grouped.var(2, correction=0) + 0.75 * layer.stored_var
    normalized = (grouped - mean[:, :, None]) / (var[:, :, None] + layer.eps).sqrt()
    expected = normalized.view(3, 8, 5) * layer.weight.view(8, 1) + layer.bias.view(8, 1)
    if activation:
        expected = nn.functional.gelu(expected, approximate="tanh")
    assert (layer(x) - expected).abs().max() < FORMULA_64


def test_it_holds_what_it_needs():
    assert set(CalibratedGroupNorm(2, 4).state_dict()) == {
        "weight", "bias", "input_weight", "input_bias",
    }  # fmt: skip
    mixed = CalibratedGroupNorm(2, 4, input_affine=False, hybrid=0.5)
    assert set(mixed.state_dict()) == {"weight", "bias", "stored_mean", "stored_var"}
    assert "input_affine=False, hybrid=0.5" in repr(mixed)
    x = torch.randn(2, 4, 3)
    assert torch.equal(copy.deepcopy(mixed)(x), mixed(x))


@pytest.mark.parametrize("hybrid", [-0.1, 1.1])
def test_shares_that_mean_nothing_are_refused(hybrid):
    with pytest.raises(ValueError, match="between 0 and 1"):
        CalibratedGroupNorm(2, 4, hybrid=hybrid)
