"""Computed weights become ordinary ones, and the model that they were copied from stays whole."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from groupnorm.conversion import standardize_convolutions, standardize_weights
from groupnorm.export.preparation.baking import bake_weights
from groupnorm.export.preparation.report import BAKED, KEPT
from groupnorm.layers import (
    ScaledWSConv2d,
    WSConv1d,
    WSConv2d,
    WSConv3d,
    WSConvTranspose1d,
    WSConvTranspose2d,
    WSConvTranspose3d,
)
from groupnorm.ops.weight_standardization import standardize
from tests.tolerances import DOUBLE


def baked(layer, x):
    """A copy of a layer with ordinary weights that computes the same, and the rows."""
    layer = layer.double().eval()
    with torch.no_grad():
        want = layer(x.double())
    network = copy.deepcopy(nn.Sequential(layer))
    rows = bake_weights(network, x.double())
    with torch.no_grad():
        torch.testing.assert_close(network(x.double()), want, rtol=0, atol=DOUBLE)
        torch.testing.assert_close(layer(x.double()), want, rtol=0, atol=0)
    return network[0], rows


@pytest.mark.parametrize(
    ("layer", "kind", "shape"),
    [
        (lambda: WSConv1d(4, 6, 3, padding=1), nn.Conv1d, (2, 4, 7)),
        (lambda: WSConv2d(4, 6, 3, stride=2, groups=2, bias=False), nn.Conv2d, (2, 4, 7, 7)),
        (lambda: WSConv2d(4, 6, 3, padding="same", ws_form="bit"), nn.Conv2d, (2, 4, 7, 7)),
        (lambda: WSConv2d(4, 6, 3, padding=1, padding_mode="reflect"), nn.Conv2d, (1, 4, 7, 7)),
        (lambda: WSConv2d(4, 6, 3, padding=(1, 2), padding_mode="circular", ws_form="original"),
         nn.Conv2d, (1, 4, 7, 7)),
        (lambda: WSConv3d(4, 6, 2, dilation=2), nn.Conv3d, (2, 4, 5, 5, 5)),
        (lambda: WSConvTranspose1d(4, 6, 3, stride=2), nn.ConvTranspose1d, (2, 4, 7)),
        (lambda: WSConvTranspose2d(4, 6, 3, stride=2, output_padding=1, groups=2),
         nn.ConvTranspose2d, (2, 4, 7, 7)),
        (lambda: WSConvTranspose3d(4, 6, 2), nn.ConvTranspose3d, (1, 4, 3, 3, 3)),
        (lambda: ScaledWSConv2d(4, 6, 3, activation="relu"), nn.Conv2d, (2, 4, 7, 7)),
    ],
)  # fmt: skip
def test_standardized_weights_become_a_plain_convolution(layer, kind, shape):
    made = layer()
    layer, rows = baked(made, torch.randn(shape))
    assert type(layer) is kind
    assert dict(layer.named_parameters()).keys() <= {"weight", "bias"}
    assert [(row.layer, row.action) for row in rows] == [("0", BAKED)]
    assert repr(layer).startswith(kind.__name__)


def test_the_weight_is_that_of_the_definition_rounded_once():
    layer = WSConv2d(4, 6, 3)
    want = standardize(layer.weight.detach().double(), "timm")
    made, _ = baked(layer, torch.randn(1, 4, 5, 5))
    torch.testing.assert_close(made.weight.detach(), want, rtol=0, atol=DOUBLE)


@pytest.mark.parametrize(
    ("change", "tensor"),
    [
        (parametrizations.weight_norm, "weight"),
        (parametrizations.spectral_norm, "weight"),
        (lambda layer: parametrize.register_parametrization(layer, "bias", nn.Softplus()), "bias"),
        (lambda layer: standardize_convolutions(layer), "weight"),
        (lambda layer: standardize_weights(layer, "bit"), "weight"),
    ],
)
def test_parametrized_tensors_become_parameters(change, tensor):
    layer = nn.Conv2d(4, 6, 3)
    change(layer)
    made, rows = baked(layer, torch.randn(2, 4, 5, 5))
    assert type(made) is nn.Conv2d
    assert not parametrize.is_parametrized(made)
    assert set(dict(made.named_parameters())) == {"weight", "bias"}
    assert [row.action for row in rows] == [BAKED]
    assert rows[0].detail.startswith(f"{tensor} of ")
    assert parametrize.is_parametrized(layer)


def test_a_parametrization_of_two_tensors_and_of_a_norm():
    layer = nn.Sequential(nn.Conv2d(4, 6, 3), nn.GroupNorm(2, 6))
    parametrizations.weight_norm(layer[0])
    parametrize.register_parametrization(layer[0], "bias", nn.Softplus())
    parametrize.register_parametrization(layer[1], "weight", nn.Softplus())
    made, rows = baked(layer, torch.randn(2, 4, 5, 5))
    assert [type(part) for part in made] == [nn.Conv2d, nn.GroupNorm]
    assert len(rows) == 3


def test_parametrized_layers_with_one_weight_are_each_computed_once():
    pair = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1))
    standardize_convolutions(pair)
    pair[1].parametrizations.weight.original = pair[0].parametrizations.weight.original
    made, rows = baked(pair, torch.randn(2, 4, 5, 5))
    assert len(rows) == 2
    assert torch.equal(made[0].weight, made[1].weight)


def test_standardized_layers_with_one_weight_too():
    pair = nn.Sequential(WSConv2d(4, 4, 3, padding=1), WSConv2d(4, 4, 3, padding=1, ws_form="bit"))
    pair[1].weight = pair[0].weight
    made, _ = baked(pair, torch.randn(2, 4, 5, 5))
    assert made[0].weight is not made[1].weight


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@pytest.mark.parametrize("change", [weight_norm, spectral_norm])
def test_hooks_that_compute_weights_are_gone(change):
    layer = change(nn.Conv2d(4, 6, 3)).double().eval()
    with torch.no_grad():  # as after any evaluation: a weight with a history cannot be copied
        layer(torch.randn(1, 4, 5, 5).double())
    made, rows = baked(layer, torch.randn(2, 4, 5, 5))
    assert set(dict(made.named_parameters())) == {"weight", "bias"}
    assert not made._forward_pre_hooks
    assert [row.action for row in rows] == [BAKED]


def test_pruned_weights_are_plain():
    layer = prune.l1_unstructured(nn.Conv2d(4, 6, 3).double(), "weight", amount=0.5).eval()
    with torch.no_grad():
        layer(torch.randn(1, 4, 5, 5).double())
    made, _ = baked(layer, torch.randn(2, 4, 5, 5))
    assert set(dict(made.named_parameters())) == {"weight", "bias"}
    assert int((made.weight == 0).sum()) == made.weight.numel() // 2


class Rescaled(nn.Conv2d):
    """Weights by a rule that the package does not know, as other libraries have them."""

    def forward(self, x):
        weight = self.weight / self.weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        return self._conv_forward(x, weight, self.bias)


class RescaledLinear(nn.Linear):
    def forward(self, x):
        return F.linear(x, self.weight.abs(), None)


class SameSize(nn.Conv2d):
    """Pads by itself."""

    def forward(self, x):
        return F.conv2d(F.pad(x, (1, 1, 1, 1)), self.weight / 2, self.bias)


class Activated(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight / 2, self.bias).relu()


class OfReLU(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x.relu(), self.weight / 2, self.bias)


class Doubled(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight / 2, self.bias, self.stride, (1, 1))


class Dynamic(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight * x.mean(), self.bias)


class Two(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight) + F.conv2d(x, self.weight / 2)


class Counting(nn.Conv2d):
    """Nothing but PyTorch's convolution, with a forward of its own."""

    def forward(self, x):
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding)


def test_weights_by_any_rule_are_baked():
    made, rows = baked(Rescaled(4, 6, 3, padding=1), torch.randn(2, 4, 5, 5))
    assert type(made) is nn.Conv2d
    assert rows[0].detail == "Rescaled to Conv2d"
    made, _ = baked(RescaledLinear(4, 6), torch.randn(2, 4))
    assert type(made) is nn.Linear
    assert made.bias is None


def test_timms_standardized_convolutions():
    timm = pytest.importorskip("timm")
    made, _ = baked(timm.layers.StdConv2d(4, 6, 3, padding=1), torch.randn(2, 4, 5, 5))
    assert type(made) is nn.Conv2d
    made, _ = baked(timm.layers.ScaledStdConv2d(4, 6, 3), torch.randn(2, 4, 5, 5))
    assert type(made) is nn.Conv2d
    # with a stride, the padding depends on the size of the map
    layer = timm.layers.StdConv2dSame(4, 6, 3, stride=2)
    made, rows = baked(layer, torch.randn(2, 4, 5, 5))
    assert type(made) is type(layer)
    assert rows[0].action == KEPT


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (SameSize(4, 6, 3), "computes more than a convolution of its input"),
        (Activated(4, 6, 3), "computes more than a convolution of its input"),
        (OfReLU(4, 6, 3), "computes more than a convolution of its input"),
        (Doubled(4, 6, 3), "computes more than a layer of PyTorch's"),
        (Dynamic(4, 6, 3), "its weights depend on its input"),
        (Two(4, 6, 3), "makes 2 convolutions"),
    ],
)
def test_a_forward_that_does_something_else_stays(layer, reason):
    made, rows = baked(layer, torch.randn(2, 4, 5, 5).abs())
    assert type(made) is type(layer)
    assert [row.action for row in rows] == [KEPT]
    assert reason in rows[0].detail


def test_a_forward_that_computes_no_weights_stays_without_a_word():
    made, rows = baked(Counting(4, 6, 3), torch.randn(2, 4, 5, 5))
    assert type(made) is Counting
    assert rows == []


def test_a_layer_that_does_not_run_is_named():
    model = nn.ModuleDict({"a": nn.Conv2d(3, 3, 1), "b": WSConv2d(3, 3, 2)}).eval()
    rows = bake_weights(model, lambda m: m["a"](torch.randn(1, 3, 4, 4)))
    assert [(row.layer, row.action) for row in rows] == [("b", KEPT)]


def test_hooks_and_places_stay():
    conv = WSConv2d(4, 4, 3, padding=1)
    seen = []
    conv.register_forward_hook(lambda *_: seen.append(1))
    network = nn.Sequential(conv, nn.ReLU(), conv).eval()
    bake_weights(network, torch.randn(1, 4, 5, 5))
    assert network[0] is network[2]
    assert type(network[0]) is nn.Conv2d
    seen.clear()
    network(torch.randn(1, 4, 5, 5))
    assert len(seen) == 2
