"""A convolution with its norm, as torchvision's helper builds it, for any norm."""

import pytest
import torch
from torch import nn
from torchvision.ops import Conv2dNormActivation

from groupnorm.layers import GroupNorm, WSConv2d, norm_layer
from groupnorm.models.detection.layers import conv_norm
from tests.tolerances import LAYER


@pytest.mark.parametrize("norm", ["gn:groups=4", "none"])
@pytest.mark.parametrize("activation", [nn.ReLU, None])
def test_the_output_is_that_of_torchvisions_helper(norm, activation):
    theirs = Conv2dNormActivation(
        6, 8, 3,
        norm_layer=None if norm == "none" else lambda c: nn.GroupNorm(4, c),
        activation_layer=activation,
    )  # fmt: skip
    ours = conv_norm(norm_layer(norm), 6, 8, 3, activation=activation)
    assert [*ours.state_dict()] == [*theirs.state_dict()]
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 6, 9, 7)
    assert torch.allclose(ours(x), theirs(x), atol=LAYER)


def test_weights_are_standardized_where_the_norm_says():
    assert type(conv_norm(norm_layer("gn+ws"), 6, 8, 1)[0]) is WSConv2d
    assert type(conv_norm(norm_layer("gn"), 6, 8, 1)[0]) is nn.Conv2d


def test_the_bias_is_there_without_a_norm_alone_and_starts_from_0():
    assert conv_norm(norm_layer("gn"), 6, 8, 3)[0].bias is None
    assert torch.equal(conv_norm(norm_layer("none"), 6, 8, 3)[0].bias, torch.zeros(8))


def test_a_norm_with_an_activation_of_its_own():
    """It takes the place of ReLU, and leaves its own out where there is to be none."""
    x = torch.randn(2, 6, 5, 5)
    layers = conv_norm(norm_layer("frn"), 6, 8, 3)
    assert not any(isinstance(module, nn.ReLU) for module in layers.modules())
    nn.init.constant_(layers[1].tau, 0.5)
    assert layers(x).min() == 0.5
    assert conv_norm(norm_layer("frn"), 6, 8, 3, activation=None)(x).min() < 0


def test_narrow_layers_have_as_many_groups_as_divide_them():
    layers = conv_norm(norm_layer("gn"), 6, 48, 3)
    assert isinstance(layers[1], GroupNorm)
    assert layers[1].num_groups == 24
