"""EvoNorm-S0 against timm's, and against the formula in float64."""

import pytest
import timm.layers
import torch
from torch import nn

from groupnorm.layers import EvoNormS0
from tests.tolerances import LAYER, bound


def build(groups=3, dtype=torch.float32, **options):
    layer = EvoNormS0(groups, 6, dtype=dtype, **options)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


def formula(layer, x):
    """Table 2 of Liu et al. 2020, group by group, in the type of x."""
    size = 6 // layer.num_groups
    images = []
    for image in x:
        groups = []
        for g in range(layer.num_groups):
            part = image[g * size : (g + 1) * size]
            spread = ((part - part.mean()) ** 2).mean()
            v = layer.v[g * size : (g + 1) * size].to(x.dtype)
            v = v.view(-1, *[1] * (part.dim() - 1))
            groups.append(part / (1 + torch.exp(-v * part)) / (spread + layer.eps).sqrt())
        images.append(torch.cat(groups))
    y = torch.stack(images)
    if layer.weight is not None:
        shape = (-1, *[1] * (x.dim() - 2))
        y = y * layer.weight.to(x.dtype).view(shape) + layer.bias.to(x.dtype).view(shape)
    return y


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_equals_timm(groups):
    ours, theirs = build(groups), timm.layers.EvoNorm2dS0(6, groups=groups)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 6, 5, 4) * 3 + 1
    y = theirs.double()(x.double())
    largest = float(y.detach().abs().max())
    assert (ours(x) - y).abs().max() <= bound(torch.float32, 1, 3 * largest, largest)
    plain = build(groups, apply_act=False)
    theirs = timm.layers.EvoNorm2dS0(6, groups=groups, apply_act=False)
    theirs.load_state_dict(plain.state_dict())
    assert torch.allclose(plain(x), theirs(x), atol=LAYER)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(3, 6), (3, 6, 7), (2, 6, 5, 4), (2, 6, 3, 2, 3)], ids=str)
@pytest.mark.parametrize("affine", [True, False])
def test_equals_the_formula(dtype, shape, affine):
    layer = build(dtype=dtype, affine=affine)
    layouts = [torch.contiguous_format]
    if len(shape) > 3:
        layouts.append({4: torch.channels_last, 5: torch.channels_last_3d}[len(shape)])
    for layout in layouts:
        x = (torch.randn(shape) * 2 + 1).to(dtype).contiguous(memory_format=layout)
        x.requires_grad_()
        a = x.detach().double().requires_grad_()
        y, expected = layer(x), formula(layer, a)
        groups = a.detach().reshape(shape[0], 3, -1)
        rstd = (groups.var(2, correction=0) + 1e-5).rsqrt()
        m = float((groups.abs().amax(2) * rstd).max())
        largest = float(expected.detach().abs().max())
        assert y.dtype == dtype
        assert (y - expected).abs().max() <= bound(dtype, m, 2 * largest, largest)
        dy = torch.randn_like(y)
        parameters = list(layer.parameters())
        gradients = torch.autograd.grad(y, [x, *parameters], dy)
        true = torch.autograd.grad(expected, [a, *parameters], dy.double())
        assert gradients[0].stride() == x.stride()
        steep = float(dy.double().abs().sum() * rstd.max()) * largest
        for ours, right in zip(gradients, true, strict=True):
            close = 2 * bound(dtype, m, steep, float(right.double().abs().max()))
            assert (ours.double() - right.double()).abs().max() <= close


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_the_variance_does_not_cancel_far_from_zero(offset):
    x = torch.randn(2, 6, 8, 8) + offset
    layer = EvoNormS0(2, 6)
    expected = formula(layer, x.double())
    close = bound(torch.float32, offset, 1 + offset, float(expected.detach().abs().max()))
    assert (layer(x) - expected).abs().max() <= close


@pytest.mark.parametrize("value", [0.0, 0.1, -3.0])
def test_constants(value):
    y = EvoNormS0(2, 6, dtype=torch.float64)(torch.full((1, 6, 3, 3), value).double())
    gate = 1 / (1 + torch.exp(torch.tensor(-value).double()))
    assert torch.allclose(y, value * gate / 1e-5**0.5 * torch.ones_like(y))


@pytest.mark.parametrize("shape", [(0, 6, 3, 3)])
def test_empty_input(shape):
    assert EvoNormS0(3, 6)(torch.randn(shape)).shape == shape


def test_gradcheck():
    layer = build(dtype=torch.float64)
    x = torch.randn(2, 6, 2, 2, dtype=torch.float64, requires_grad=True)
    arguments = (x, *layer.parameters())
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), arguments)
    assert torch.autograd.gradgradcheck(lambda x, *_: layer(x), arguments)


def test_first_values_and_keys():
    layer = EvoNormS0(1, 3)
    assert [*layer.state_dict()] == ["weight", "bias", "v"]
    assert layer.v.tolist() == [1, 1, 1]


def test_errors():
    with pytest.raises(ValueError, match=r"got 6 channels and 4 groups; norm_layer\('evonorm_s0:"):
        EvoNormS0(4, 6)
    with pytest.raises(ValueError, match=r"\(N, 6, \*\), got \(2, 5, 3\)"):
        EvoNormS0(3, 6)(torch.randn(2, 5, 3))
