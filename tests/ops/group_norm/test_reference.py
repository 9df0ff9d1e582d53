"""The specification against a formula written out here, and its two halves against each other."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groupnorm.ops.group_norm import reference
from groupnorm.ops.group_norm.activations import ACTIVATIONS
from tests.tolerances import bound


def by_hand(x, groups, eps):
    """Equations 1 to 7 of the paper, one group at a time."""
    y, means, rstds = torch.empty_like(x), [], []
    size = x.shape[1] // groups
    for n in range(x.shape[0]):
        for g in range(groups):
            values = x[n, g * size : (g + 1) * size]
            mean = values.sum() / values.numel()
            rstd = 1 / ((values - mean).square().sum() / values.numel() + eps).sqrt()
            y[n, g * size : (g + 1) * size] = (values - mean) * rstd
            means.append(mean)
            rstds.append(rstd)
    shape = (x.shape[0], groups)
    return y, torch.stack(means).view(shape), torch.stack(rstds).view(shape)


@pytest.mark.parametrize("eps", [1e-5, 1e-2])
@pytest.mark.parametrize(
    ("shape", "groups"), [((3, 6), 2), ((2, 6, 5), 3), ((2, 6, 3, 4), 1), ((2, 4, 3, 2, 2), 4)]
)
def test_against_the_equations(shape, groups, eps):
    x = torch.randn(shape, dtype=torch.float64)
    weight, bias, residual = torch.randn(2, shape[1]).double(), None, torch.randn_like(x)
    channel = (-1, *[1] * (len(shape) - 2))
    xhat, mean, rstd = by_hand(x, groups, eps)
    limit = bound(torch.float64, 5, float(rstd.max()) * 10, 10)
    for ours, true in zip(reference.forward(x, groups, eps=eps), (xhat, mean, rstd), strict=True):
        assert (ours - true).abs().max() <= limit
    bias = weight[1]
    expected = torch.relu(xhat * weight[0].view(channel) + bias.view(channel) + residual)
    y, _, _ = reference.forward(x, groups, weight[0], bias, eps, "relu", residual)
    assert (y - expected).abs().max() <= limit


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_backward_is_the_derivative_of_forward(data):
    """The hand-written gradients against autograd through forward, in float64."""
    size, groups = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    spatial = data.draw(st.lists(st.integers(0, 5), max_size=3))
    shape = (data.draw(st.integers(0, 3)), size * groups, *spatial)
    activation = data.draw(st.sampled_from([None, *ACTIVATIONS]))
    g = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    x, residual, dy = (torch.randn(shape, generator=g).double() for _ in range(3))
    w, b = (torch.randn(shape[1], generator=g).double() for _ in range(2))
    inputs = [t.requires_grad_() for t in (x, w, b, residual)]
    y, mean, rstd = reference.forward(x, groups, w, b, 1e-5, activation, residual)
    expected = torch.autograd.grad(y, inputs, dy)
    with torch.no_grad():
        ours = reference.backward(dy, x, groups, w, b, mean, rstd, activation, residual)
        spread = float(rstd.max()) if rstd.numel() else 1.0
    for name, a, e in zip(("dx", "dweight", "dbias", "dresidual"), ours, expected, strict=True):
        assert a.shape == e.shape
        scale = 1 + float(e.detach().abs().max()) if e.numel() else 1
        limit = bound(torch.float64, 0, 100 * scale * spread, 0)
        assert ((a - e).abs() <= limit).all(), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_statistics_are_kept_in_their_own_type(dtype):
    x = torch.randn(2, 6, 5).to(dtype)
    y, mean, rstd = reference.forward(x, 3)
    assert y.dtype == dtype
    assert mean.dtype == rstd.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    dx, dw, db, dr = reference.backward(x, x, 3, None, None, mean, rstd)
    assert dx.dtype == dr.dtype == dtype
    assert dw.dtype == db.dtype == mean.dtype


@pytest.mark.parametrize("grad_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_backward_keeps_the_layout_of_the_input(format, grad_format):
    x = torch.randn(2, 6, 5, 4).contiguous(memory_format=format)
    dy = torch.randn(2, 6, 5, 4).contiguous(memory_format=grad_format)
    y, mean, rstd = reference.forward(x, 3, activation="silu")
    dx, _, _, dr = reference.backward(dy, x, 3, None, None, mean, rstd, "silu")
    assert y.stride() == dx.stride() == dr.stride() == x.stride()


def test_backward_bits_repeat():
    x, dy, w = torch.randn(4, 32, 14, 14), torch.randn(4, 32, 14, 14), torch.randn(32)
    _, mean, rstd = reference.forward(x, 8, w)
    once = reference.backward(dy, x, 8, w, None, mean, rstd, "gelu")
    again = reference.backward(dy, x, 8, w, None, mean, rstd, "gelu")
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


def test_a_large_group():
    """4e6 elements in [0, 1): one-pass sums in float32 lost digits at this size."""
    x = torch.rand(1, 4, 1000, 1000)
    _, mean, rstd = reference.forward(x, 1)
    var, true_mean = torch.var_mean(x.double(), correction=0)
    true_rstd = torch.rsqrt(var + 1e-5)
    limit = bound(torch.float32, float(true_mean * true_rstd), float(true_rstd), float(true_rstd))
    assert (mean - true_mean).abs() <= limit
    assert (rstd - true_rstd).abs() <= limit


def test_empty_groups_have_defined_statistics():
    _, mean, rstd = reference.forward(torch.randn(2, 6, 0), 3)
    assert torch.equal(mean, torch.zeros(2, 3))
    assert torch.equal(rstd, torch.full((2, 3), 1e-5).rsqrt())
