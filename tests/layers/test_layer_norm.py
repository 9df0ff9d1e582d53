"""LayerNorm2d against PyTorch's layer norm and the formula in float64."""

import pytest
import timm.layers
import torch
from torch import nn

from groupnorm.layers import LayerNorm2d
from tests.tolerances import bound

SHAPES = [(5, 8), (3, 8, 7), (2, 8, 5, 4), (2, 8, 3, 4, 2), (1, 8, 1, 1), (0, 8, 3, 3)]


def pair(channels=8, dtype=torch.float32):
    ours, theirs = LayerNorm2d(channels, dtype=dtype), nn.LayerNorm(channels, eps=1e-6).double()
    nn.init.normal_(ours.weight)
    nn.init.normal_(ours.bias)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_equals_layer_norm_of_every_position(dtype, shape, offset):
    ours, theirs = pair(dtype=dtype)
    for x in layouts((torch.randn(shape) + offset).to(dtype)):
        x.requires_grad_()
        y = ours(x)
        a = x.detach().double().requires_grad_()
        expected = theirs(a.movedim(1, -1)).movedim(-1, 1)
        assert y.dtype == dtype
        if not x.numel():
            assert y.shape == x.shape
            continue
        rstd = float(1 / (a.detach().var(1, correction=0) + 1e-6).sqrt().min())
        m = offset * rstd
        scale = float(ours.weight.detach().abs().max()) * 8**0.5  # |xhat| <= sqrt(C)
        largest = float(expected.detach().abs().max())
        assert (y - expected).abs().max() <= bound(dtype, m, scale, largest)
        dy = torch.randn_like(y)
        y.backward(dy)
        expected.backward(dy.double())
        assert x.grad.stride() == x.stride()
        along = float((dy.double().abs().max() * ours.weight.detach().abs().max()) * rstd) * 8
        close = bound(dtype, m, along, float(a.grad.abs().max()))
        assert (x.grad - a.grad).abs().max() <= close
        for name in ("weight", "bias"):
            value, true = getattr(ours, name).grad, getattr(theirs, name).grad
            size = float(dy.double().abs().sum()) * 8**0.5
            assert (value - true).abs().max() <= bound(dtype, m, size, float(true.abs().max()))
            getattr(ours, name).grad = None
            getattr(theirs, name).grad = None


def layouts(x):
    yield x
    if x.dim() in (4, 5):
        layout = {4: torch.channels_last, 5: torch.channels_last_3d}[x.dim()]
        yield x.detach().clone().contiguous(memory_format=layout)


def test_equals_timm():
    ours = LayerNorm2d(6)
    theirs = timm.layers.LayerNorm2d(6)
    nn.init.normal_(ours.weight)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 6, 4, 5)
    y = theirs(x).detach()
    assert (ours(x) - y).abs().max() <= 2 * bound(torch.float32, 5, float(y.abs().max()), 0)


def test_constant_channels_give_the_bias():
    layer = LayerNorm2d(4)
    nn.init.normal_(layer.bias)
    y = layer(torch.full((2, 4, 3, 3), 1e4 + 1 / 3))
    assert torch.equal(y, layer.bias.view(1, 4, 1, 1).expand(2, 4, 3, 3))


def test_one_channel_gives_the_bias_whatever_the_input():
    layer = LayerNorm2d(1)
    assert torch.equal(layer(torch.randn(2, 1, 3, 3)), torch.zeros(2, 1, 3, 3))


def test_other_channels_raise():
    with pytest.raises(ValueError, match=r"\(N, 4, \*\), got \(2, 5, 3\) for LayerNorm2d\(4, eps"):
        LayerNorm2d(4)(torch.randn(2, 5, 3))
    with pytest.raises(ValueError, match=r"got \(4,\)"):
        LayerNorm2d(4)(torch.randn(4))
