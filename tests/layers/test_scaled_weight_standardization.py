"""Scaled weight standardization against timm's, the gains against their definition."""

import math

import pytest
import timm.layers
import torch
from timm.models.nfnet import _nonlin_gamma
from torch import nn

from groupnorm.layers import ScaledWSConv2d
from groupnorm.layers.scaled_weight_standardization import activation_gain
from groupnorm.ops.group_norm.activations import ACTIVATIONS, activate
from tests.tolerances import FORMULA_64, ONE_PERCENT, PUBLISHED_GAIN, bound


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("activation", [None, "relu", "silu"])
def test_equals_timm(groups, activation):
    ours = ScaledWSConv2d(4, 6, 3, stride=2, padding=1, groups=groups, activation=activation)
    nn.init.normal_(ours.gain)
    gamma = activation_gain(activation)
    theirs = timm.layers.ScaledStdConv2d(4, 6, 3, stride=2, padding=1, groups=groups, gamma=gamma)
    theirs.load_state_dict(ours.state_dict())
    a = torch.randn(2, 4, 7, 5).requires_grad_()
    b = a.detach().clone().requires_grad_()
    y, expected = ours(a), theirs(b)
    largest = float(expected.detach().abs().max())
    assert (y - expected).abs().max() <= 2 * bound(torch.float32, 1, 6 * largest, largest)
    dy = torch.randn_like(y)
    y.backward(dy)
    expected.backward(dy)
    for name, true in theirs.named_parameters():
        steep = float(dy.abs().sum()) * float(a.detach().abs().max())
        error = (ours.get_parameter(name).grad - true.grad).abs().max()
        assert error <= 2 * bound(torch.float32, 1, steep, float(true.grad.abs().max()))


def test_the_gain_of_relu_is_the_papers_formula():
    assert activation_gain("relu") == pytest.approx(
        math.sqrt(2 / (1 - 1 / math.pi)), rel=FORMULA_64
    )
    assert activation_gain(None) == pytest.approx(1, rel=FORMULA_64)


@pytest.mark.parametrize(
    ("name", "theirs"), [("relu", "relu"), ("silu", "silu"), ("gelu", "gelu"),
                         ("leaky_relu", "leaky_relu")],
)  # fmt: skip
def test_gains_are_those_of_the_published_table(name, theirs):
    """The table was estimated from random samples: it is off by up to 1e-3."""
    assert activation_gain(name) == pytest.approx(_nonlin_gamma[theirs], rel=PUBLISHED_GAIN)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_gain_makes_the_variance_one(name):
    z = torch.randn(1_000_000, dtype=torch.float64)
    assert (activation_gain(name) * activate(z, name)).var().item() == pytest.approx(
        1, rel=ONE_PERCENT
    )


def test_variance_is_kept_through_many_layers():
    torch.manual_seed(0)
    x = torch.randn(8, 128, 8, 8)
    for _ in range(10):
        conv = ScaledWSConv2d(128, 128, 3, padding=1, padding_mode="circular", activation="relu")
        nn.init.zeros_(conv.bias)
        x = conv(x.relu()).detach()
    # Each layer is one draw of 128 filters; without the gains it would be 0.34^10 = 2e-5.
    assert 0.5 < x.var().item() < 2


@pytest.mark.parametrize("activation", [None, "relu"])
def test_gradcheck(activation):
    conv = ScaledWSConv2d(2, 3, 2, activation=activation, dtype=torch.float64)
    x = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: conv(x), (x, *conv.parameters()))


def test_meta_device_keys_and_errors():
    conv = ScaledWSConv2d(2, 3, 2, activation="relu", device="meta")
    conv.to_empty(device="cpu").reset_parameters()
    assert conv.gain.tolist() == [[[[1]]]] * 3
    assert set(conv.state_dict()) == {"weight", "bias", "gain"}
    assert "activation='relu'" in repr(conv)
    with pytest.raises(ValueError, match="unknown activation 'tanh'"):
        ScaledWSConv2d(2, 3, 2, activation="tanh")
    with pytest.raises(ValueError, match="filter of one weight"):
        ScaledWSConv2d(2, 2, 1, groups=2)
