"""Filter response norm against timm's, and against the formula in float64."""

import pytest
import timm.layers
import torch
from torch import nn

from groupnorm.layers import FilterResponseNorm
from tests.tolerances import LAYER, SIGN, bound


def build(**options):
    layer = FilterResponseNorm(6, **options)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


def formula(layer, x):
    """Equations 1 to 4 of Singh & Krishnan 2020, channel by channel, in the type of x."""
    images = []
    for image in x:
        channels = []
        for c, plane in enumerate(image):
            eps = layer.eps
            if layer.learned_eps is not None:
                eps = eps + layer.learned_eps[0].to(x.dtype).abs()
            y = plane / (plane.pow(2).sum() / plane.numel() + eps).sqrt()
            if layer.weight is not None:
                y = y * layer.weight[c].to(x.dtype) + layer.bias[c].to(x.dtype)
            if layer.tau is not None:
                tau = layer.tau[c].to(x.dtype)
                y = torch.where(y > tau, y, tau)
            channels.append(y)
        images.append(torch.stack(channels))
    return torch.stack(images)


def test_equals_timm():
    ours, theirs = build(eps=1e-5), timm.layers.FilterResponseNormTlu2d(6)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 6, 5, 4) * 3 + 1
    y = theirs.double()(x.double())
    largest = float(y.detach().abs().max())
    assert (ours(x) - y).abs().max() <= bound(torch.float32, 0, largest, largest)
    plain = build(eps=1e-5, apply_act=False)
    theirs = timm.layers.FilterResponseNormTlu2d(6, apply_act=False)
    theirs.load_state_dict(plain.state_dict())
    assert torch.allclose(plain(x), theirs(x), atol=LAYER)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(3, 6, 7), (2, 6, 5, 4), (2, 6, 3, 2, 3), (1, 6, 2, 2)], ids=str)
@pytest.mark.parametrize(
    "options", [{}, {"learn_eps": True}, {"affine": False}, {"apply_act": False}], ids=str
)
def test_equals_the_formula(dtype, shape, options):
    layer = build(**options).to(dtype)
    layouts = [torch.contiguous_format]
    if len(shape) > 3:
        layouts.append({4: torch.channels_last, 5: torch.channels_last_3d}[len(shape)])
    for layout in layouts:
        x = (torch.randn(shape) * 2 + 1).to(dtype).contiguous(memory_format=layout)
        x.requires_grad_()
        a = x.detach().double().requires_grad_()
        y, expected = layer(x), formula(layer, a)
        largest = float(expected.detach().abs().max())
        assert y.dtype == dtype
        assert (y - expected).abs().max() <= bound(dtype, 0, 2 * largest, largest)
        dy = torch.randn_like(y)
        parameters = list(layer.parameters())
        gradients = torch.autograd.grad(y, [x, *parameters], dy)
        true = torch.autograd.grad(expected, [a, *parameters], dy.double())
        assert gradients[0].stride() == x.stride()
        steep = 6 * float(dy.double().abs().sum((0, *range(2, len(shape)))).max()) * largest
        for ours, right in zip(gradients, true, strict=True):
            assert ours.dtype == dtype
            # The formula's parameter gradients are rounded to the parameters' type, too.
            close = 2 * bound(dtype, 0, steep, float(right.double().abs().max()))
            assert (ours.double() - right.double()).abs().max() <= close


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1, 1)])
def test_one_position(shape):
    x = torch.randn(shape)
    with pytest.warns(UserWarning, match="output is the sign of the input; learn_eps=True"):
        y = FilterResponseNorm(6, apply_act=False)(x)
    assert torch.allclose(y, x.sign(), atol=SIGN)
    layer = FilterResponseNorm(6, apply_act=False, learn_eps=True, dtype=torch.float64)
    layer.learned_eps.data.fill_(-1.0)  # its absolute value counts
    x = x.double()
    assert torch.allclose(layer(x), x / (x * x + 1 + 1e-6).sqrt())
    FilterResponseNorm(6).eval()(x.float())  # no warning in evaluation


def test_first_values_and_keys():
    layer = FilterResponseNorm(3, learn_eps=True)
    assert [*layer.state_dict()] == ["weight", "bias", "tau", "learned_eps"]
    assert layer.learned_eps.tolist() == pytest.approx([1e-4])
    assert layer.tau.tolist() == [0, 0, 0]
    assert [*FilterResponseNorm(3).state_dict()] == ["weight", "bias", "tau"]


@pytest.mark.parametrize("value", [0.0, 1e-3, 0.1, 1e7])
def test_constants(value):
    y = FilterResponseNorm(2, dtype=torch.float64)(torch.full((1, 2, 3, 3), value).double())
    assert torch.allclose(y, torch.full_like(y, value / (value**2 + 1e-6) ** 0.5))


def test_squares_of_half_numbers_do_not_overflow():
    y = FilterResponseNorm(2)(torch.full((1, 2, 3, 3), 6e4, dtype=torch.float16))
    assert torch.equal(y, torch.ones_like(y))


@pytest.mark.parametrize("shape", [(0, 6, 3, 3), (2, 6, 0, 3)])
def test_empty_input(shape):
    assert FilterResponseNorm(6)(torch.randn(shape)).shape == shape


@pytest.mark.parametrize("options", [{}, {"learn_eps": True}])
def test_gradcheck(options):
    layer = build(**options).double()
    x = torch.randn(2, 6, 2, 2, dtype=torch.float64, requires_grad=True)
    arguments = (x, *layer.parameters())
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), arguments)
    assert torch.autograd.gradgradcheck(lambda x, *_: layer(x), arguments)


def test_other_channels_raise():
    with pytest.raises(ValueError, match=r"\(N, 4, \*\), got \(2, 5, 3\)"):
        FilterResponseNorm(4)(torch.randn(2, 5, 3))
