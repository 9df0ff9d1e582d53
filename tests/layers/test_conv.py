"""Weight-standardized convolutions against the formulas, timm's and the authors' form."""

import math
import subprocess
import sys

import pytest
import timm.layers
import torch
import torch.nn.functional as F
from timm.models.nfnet import _nonlin_gamma
from torch import nn

from groupnorm.layers import (
    WS_FORMS,
    ScaledWSConv2d,
    WSConv1d,
    WSConv2d,
    WSConv3d,
    WSConvTranspose1d,
    WSConvTranspose2d,
    WSConvTranspose3d,
)
from groupnorm.layers.conv import activation_gain
from groupnorm.ops.group_norm.activations import ACTIVATIONS, activate
from tests.tolerances import DOUBLE, FORMULA_64, GRID_64, ONE_PERCENT, PUBLISHED_GAIN, bound

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


def test_building_one_loads_no_compiler():
    """Triton, which the compiler loads, ends a process that has TensorFlow."""
    code = (
        "import sys\n"
        "from groupnorm.layers import ScaledWSConv2d, WSConv2d\n"
        "WSConv2d(3, 8, 3), ScaledWSConv2d(3, 8, 3)\n"
        "print([name for name in ('torch._dynamo', 'triton') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, encoding="utf-8"
    )
    assert done.stdout.strip() == "[]"


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


# ---- scaled weight standardization ---------------------------------------------------------------


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("activation", [None, "relu", "silu"])
def test_scaled_convolutions_equal_timm(groups, activation):
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
    assert activation_gain("relu") == pytest.approx(math.sqrt(2 / (1 - 1 / math.pi)), rel=GRID_64)
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
def test_gradcheck_of_scaled_convolutions(activation):
    conv = ScaledWSConv2d(2, 3, 2, activation=activation, dtype=torch.float64)
    x = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: conv(x), (x, *conv.parameters()))


def test_meta_device_keys_and_errors_of_scaled_convolutions():
    conv = ScaledWSConv2d(2, 3, 2, activation="relu", device="meta")
    conv.to_empty(device="cpu").reset_parameters()
    assert conv.gain.tolist() == [[[[1]]]] * 3
    assert set(conv.state_dict()) == {"weight", "bias", "gain"}
    assert "activation='relu'" in repr(conv)
    with pytest.raises(ValueError, match="unknown activation 'tanh'"):
        ScaledWSConv2d(2, 3, 2, activation="tanh")
    with pytest.raises(ValueError, match="filter of one weight"):
        ScaledWSConv2d(2, 2, 1, groups=2)
