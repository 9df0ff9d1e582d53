"""What folding does to a layer's weights, seen in its output."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from groupnorm.conversion.calibration.affine import fold_affine
from tests.tolerances import DOUBLE, LAYER

LAYERS = {
    "dense": lambda: nn.Conv2d(6, 8, 3, padding=1, stride=2),
    "without bias": lambda: nn.Conv2d(6, 8, 1, bias=False),
    "grouped": lambda: nn.Conv2d(6, 8, 3, groups=2, dilation=2),
    "depthwise": lambda: nn.Conv2d(6, 6, 3, padding=1, groups=6),
    "depth multiplier": lambda: nn.Conv1d(6, 12, 3, groups=6),
    "in time": lambda: nn.Conv3d(6, 4, (3, 1, 1)),
    "transposed": lambda: nn.ConvTranspose2d(6, 8, 3, stride=2, padding=1),
    "transposed, grouped": lambda: nn.ConvTranspose2d(6, 8, 2, stride=2, groups=2, bias=False),
    "linear": lambda: nn.Linear(6, 5),
}
SHAPES = {"linear": (4, 6), "in time": (2, 6, 5, 3, 3), "depth multiplier": (2, 6, 9)}


def transposed_groups(layer):
    return layer.groups if getattr(layer, "transposed", False) else None


def with_parameters(layer, weight, bias):
    """The same layer with others."""
    if bias is not None and layer.bias is None:
        layer.bias = nn.Parameter(torch.zeros_like(bias))
    parameters = {"weight": weight} | ({} if bias is None else {"bias": bias})
    return lambda x: functional_call(layer, parameters, (x,))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_folded_layers_compute_the_affine(name, dtype):
    layer = LAYERS[name]().to(dtype)
    x = torch.randn(SHAPES.get(name, (2, 6, 7, 7)), dtype=dtype)
    expected = layer(x)
    scale, shift = torch.randn(2, expected.shape[1], dtype=torch.float64)
    shape = (-1, *[1] * (expected.dim() - 2))
    expected = expected.double() * scale.view(shape) + shift.view(shape)
    weight, bias = fold_affine(
        layer.weight, layer.bias, scale, shift, transposed_groups=transposed_groups(layer)
    )
    assert weight.shape == layer.weight.shape
    assert weight.dtype == bias.dtype == dtype
    assert not weight.requires_grad
    found = with_parameters(layer, weight, bias)(x)
    tolerance = DOUBLE if dtype == torch.float64 else LAYER
    assert (found - expected).abs().max() < tolerance


def test_folding_back_gives_the_weights_again():
    layer = nn.Conv2d(3, 4, 3).double()
    scale, shift = torch.rand(4).double() + 0.5, torch.randn(4).double()
    folded = fold_affine(layer.weight, layer.bias, scale, shift)
    weight, bias = fold_affine(*folded, 1 / scale, -shift / scale)
    assert (weight - layer.weight).abs().max() < DOUBLE
    assert (bias - layer.bias).abs().max() < DOUBLE


@pytest.mark.parametrize("wrong", [3, 5])
def test_another_number_of_channels_is_refused(wrong):
    weight = torch.ones(4, 2)
    with pytest.raises(ValueError, match="4 output channels"):
        fold_affine(weight, None, torch.ones(wrong), torch.ones(wrong))
    with pytest.raises(ValueError, match="4 output channels"):
        fold_affine(torch.ones(2, 2, 3), None, torch.ones(2), torch.ones(2), transposed_groups=2)
