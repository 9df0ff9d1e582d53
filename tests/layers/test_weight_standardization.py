"""Weight-standardized convolutions against the formulas, timm's and the authors' form."""

import pytest
import timm.layers
import torch
import torch.nn.functional as F
from torch import nn

from groupnorm.layers import (
    WS_FORMS,
    WSConv1d,
    WSConv2d,
    WSConv3d,
    WSConvTranspose1d,
    WSConvTranspose2d,
    WSConvTranspose3d,
    standardize,
)
from tests.tolerances import DOUBLE, ROUNDOFF, ZERO_64, bound

PLAIN = {1: (WSConv1d, F.conv1d), 2: (WSConv2d, F.conv2d), 3: (WSConv3d, F.conv3d)}
TRANSPOSED = {
    1: (WSConvTranspose1d, F.conv_transpose1d),
    2: (WSConvTranspose2d, F.conv_transpose2d),
    3: (WSConvTranspose3d, F.conv_transpose3d),
}


def of_one_filter(w, form, eps):
    """The definition for one filter, in the type of w."""
    n = w.numel()
    squares = ((w - w.mean()) ** 2).sum()
    if form == "original":
        return (w - w.mean()) / ((squares / (n - 1)) ** 0.5 + eps)  # unbiased, eps outside
    return (w - w.mean()) / (squares / n + eps) ** 0.5  # biased, eps inside


@pytest.mark.parametrize("form", WS_FORMS)
@pytest.mark.parametrize("eps", [None, 0.1])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_convolutions(form, eps, groups, dims):
    conv, plain = PLAIN[dims]
    layer = conv(4, 6, 3, stride=2, padding=1, groups=groups, ws_form=form, ws_eps=eps).double()
    x = torch.randn(2, 4, 7, 5, 6, dtype=torch.float64)[(..., *[0] * (3 - dims))]
    value = {"timm": 1e-6, "bit": 1e-10, "original": 1e-5}[form] if eps is None else eps
    filters = torch.stack([of_one_filter(w, form, value) for w in layer.weight])
    expected = plain(x, filters, layer.bias, 2, 1, groups=groups)
    assert torch.allclose(layer(x), expected, atol=DOUBLE)
    assert torch.allclose(layer.standardized_weight(), filters, atol=DOUBLE)


@pytest.mark.parametrize("form", WS_FORMS)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_transposed_convolutions(form, groups, dims):
    """The weight is (in, out / groups, *kernel): filter o of group g takes the inputs of g."""
    conv, plain = TRANSPOSED[dims]
    layer = conv(4, 6, 3, stride=2, padding=1, output_padding=1, groups=groups, ws_form=form)
    layer = layer.double()
    x = torch.randn(2, 4, 5, 3, 4, dtype=torch.float64)[(..., *[0] * (3 - dims))]
    weight = torch.empty_like(layer.weight)
    inputs = 4 // groups
    for g in range(groups):
        rows = slice(g * inputs, (g + 1) * inputs)
        for o in range(6 // groups):
            weight[rows, o] = of_one_filter(layer.weight[rows, o], form, WS_FORMS[form])
    expected = plain(x, weight, layer.bias, 2, 1, 1, groups)
    assert torch.allclose(layer(x), expected, atol=DOUBLE)
    size = [2 * s for s in x.shape[2:]]
    assert torch.allclose(layer(x, output_size=size), expected, atol=DOUBLE)


@pytest.mark.parametrize("bias", [True, False])
def test_equals_timm(bias):
    ours = WSConv2d(4, 6, 3, padding=1, bias=bias)
    theirs = timm.layers.StdConv2d(4, 6, 3, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 4, 7, 5)
    y = theirs(x)
    largest = float(y.detach().abs().max())
    assert (ours(x) - y).abs().max() <= 2 * bound(torch.float32, 1, 6 * largest, largest)


def test_padding_modes():
    layer = WSConv2d(2, 3, 3, padding=1, padding_mode="circular")
    x = torch.randn(1, 2, 5, 5)
    wrapped = F.pad(x, (1, 1, 1, 1), mode="circular")
    assert torch.allclose(layer(x), F.conv2d(wrapped, layer.standardized_weight(), layer.bias))


def test_filters_have_mean_zero_and_biased_variance_one():
    w = standardize(torch.randn(5, 3, 3, 3, dtype=torch.float64) * 7 + 4)
    assert w.mean((1, 2, 3)).abs().max() < ZERO_64
    assert torch.allclose(w.var((1, 2, 3), correction=0), torch.ones(5, dtype=torch.float64))


@pytest.mark.parametrize("form", WS_FORMS)
def test_scale_and_shift_of_the_weights_do_not_matter(form):
    w = torch.randn(5, 3, 3, 3, dtype=torch.float64)
    assert torch.allclose(standardize(3 * w - 2, form, 1e-12), standardize(w, form, 1e-12))


@pytest.mark.parametrize("form", WS_FORMS)
def test_equal_weights_give_zeros_and_a_finite_gradient(form):
    w = torch.full((2, 3, 3, 3), 0.3, requires_grad=True)
    standardized = standardize(w, form)
    # 0.3 is rounded, and with it the mean: eps decides how much of that is left.
    assert standardized.abs().max() <= 2 * ROUNDOFF[torch.float32] * 0.3 / min(WS_FORMS[form], 1e-5)
    (gradient,) = torch.autograd.grad(standardized, w, torch.randn_like(w))
    assert gradient.isfinite().all()
    zeros = torch.zeros(2, 3, 3, 3, requires_grad=True)
    assert torch.equal(standardize(zeros, form), torch.zeros(2, 3, 3, 3))
    (gradient,) = torch.autograd.grad(standardize(zeros, form), zeros, torch.randn_like(w))
    assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_weights_are_standardized_in_float32(dtype):
    w = (torch.randn(5, 3, 3, 3) * 1e-4 + 3e-4).to(dtype)
    expected = standardize(w.double())
    largest = float(expected.abs().max())
    assert standardize(w).dtype == dtype
    assert (standardize(w).double() - expected).abs().max() <= bound(dtype, 5, largest, largest)


@pytest.mark.parametrize("form", WS_FORMS)
@pytest.mark.parametrize("groups", [None, 2])
def test_the_gradient_flows_through(form, groups):
    w = torch.randn(4, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: standardize(w, form, transposed_groups=groups), (w,))


@pytest.mark.parametrize(
    "kind", [WSConv1d, WSConv2d, WSConv3d, *(c for c, _ in TRANSPOSED.values())]
)
def test_drop_in(kind):
    theirs = getattr(nn, kind.__name__.removeprefix("WS"))(4, 4, 3, bias=False)
    ours = kind(4, 4, 3, bias=False)
    ours.load_state_dict(theirs.state_dict())
    assert isinstance(ours, type(theirs))
    assert "ws_form='timm', ws_eps=1e-06" in repr(ours)
    assert kind(4, 4, 3, device="meta").weight.is_meta


@pytest.mark.parametrize("form", WS_FORMS)
def test_compile_and_export(form):
    torch.compiler.reset()
    model = nn.Sequential(
        WSConv2d(3, 4, 3, ws_form=form), WSConvTranspose2d(4, 2, 3, groups=2, ws_form=form)
    )
    x = torch.randn(2, 3, 7, 6)
    expected = model(x)
    largest = float(expected.detach().abs().max())
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    exported = torch.export.export(model, (x,)).module()
    for other in (compiled, exported):
        assert (other(x) - expected).abs().max() <= 2 * bound(torch.float32, 1, largest, largest)


def test_what_cannot_be_standardized_raises():
    with pytest.raises(ValueError, match=r"filter of one weight .* shape \(4, 1, 1, 1\)"):
        WSConv2d(4, 4, 1, groups=4)
    with pytest.raises(ValueError, match=r"filter of one weight .* shape \(4, 3, 1\)"):
        WSConvTranspose1d(4, 12, 1, groups=4)
    WSConvTranspose1d(4, 1, 1)  # four weights reach its one output
    with pytest.raises(ValueError, match="between 0 and 1, got 0"):
        WSConv2d(4, 4, 3, ws_eps=0)
    with pytest.raises(ValueError, match=r"unknown form .* 'tf'; known: timm, bit, original"):
        WSConv2d(4, 4, 3, ws_form="tf")
