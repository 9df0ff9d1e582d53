"""GroupNorm with an affine before it and with stored statistics: by definition, state, errors."""

import copy

import pytest
import torch
from torch import nn

from groupnorm.layers import CalibratedGroupNorm, GroupNorm
from tests.tolerances import FORMULA_64, bound

VARIANTS = {
    "affine": {},
    "mixed": {"input_affine": False, "hybrid": 0.5},
    "both": {"hybrid": 0.5, "activation": "silu"},
}
variants = pytest.mark.parametrize("variant", VARIANTS)


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


@variants
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_half_input_is_computed_in_single_precision(variant, dtype, memory):
    """In the input's dtype and layout, with gradients in theirs, and parameters of float32."""
    generator = torch.Generator().manual_seed(1)
    x = (2 * torch.randn(6, 8, 5, 3, generator=generator) + 3).to(dtype)
    x = x.contiguous(memory_format=memory).requires_grad_()
    layer = filled(CalibratedGroupNorm(2, 8, **VARIANTS[variant]))
    true = copy.deepcopy(layer).double()(x.detach().double())
    y = layer(x)
    largest = float(true.detach().abs().max())
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=memory)
    assert (y.double() - true).abs().max() <= bound(dtype, 5, 2 * largest, largest)
    gradient, *others = torch.autograd.grad(y, (x, *layer.parameters()), torch.ones_like(y))
    assert gradient.dtype == dtype
    assert gradient.is_contiguous(memory_format=memory)
    assert {other.dtype for other in others} == {torch.float32}


@variants
@pytest.mark.parametrize(("dtype", "offset"), [(torch.float32, 1e4), (torch.float16, 2e3)], ids=str)
def test_values_far_from_zero(variant, dtype, offset):
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(3, 8, 9, generator=generator)
    for x in (noise + offset, noise * offset):  # squares of the second are beyond float16
        x = x.to(dtype)
        layer = filled(CalibratedGroupNorm(2, 8, **VARIANTS[variant]))
        if layer.hybrid < 1:
            layer.stored_mean.fill_(float(x.double().mean()))
            layer.stored_var.fill_(float(x.double().var()))
        true = copy.deepcopy(layer).double()(x.double())
        m = float(x.double().abs().max() / x.double().std())
        largest = float(true.detach().abs().max())
        error = (layer(x).double() - true).abs().max()
        assert error <= bound(dtype, 4 * m, 2 * largest, largest)  # the affine spreads the channels


@variants
@pytest.mark.parametrize("shape", [(0, 8, 5, 3), (6, 8, 0, 3)], ids=str)
def test_an_input_without_values(variant, shape):
    layer = filled(CalibratedGroupNorm(2, 8, **VARIANTS[variant]))
    x = torch.randn(shape, requires_grad=True)
    y = layer(x)
    assert y.shape == shape
    y.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in layer.parameters())


@variants
def test_gradients_by_finite_differences(variant):
    layer = filled(CalibratedGroupNorm(2, 4, dtype=torch.float64, **VARIANTS[variant]))
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x, *layer.parameters()))


@variants
def test_other_channels_are_refused(variant):
    layer = CalibratedGroupNorm(2, 8, **VARIANTS[variant])
    for shape in ((2, 4, 3), (2, 1, 3), (8,)):
        with pytest.raises(ValueError, match=r"expected input \(N, 8, \*\), got"):
            layer(torch.randn(shape))
