"""Norms with each sample's own statistics become group norms, or stay and are named."""

import pytest
import torch
from torch import nn

from groupnorm import GroupNorm, GroupNormAct
from groupnorm.export.preparation.own_statistics import group_norms, simplify_norms
from groupnorm.export.preparation.report import FOLDED, KEPT, PLAIN
from groupnorm.layers import CalibratedGroupNorm, norm_layer
from tests.export.preparation.networks import random_affine
from tests.tolerances import FORMULA_64


def simplified(model, shape):
    model = random_affine(model).double()
    for module in model.modules():
        if isinstance(module, CalibratedGroupNorm) and module.input_weight is not None:
            nn.init.uniform_(module.input_weight, 0.5, 2.0)
            nn.init.uniform_(module.input_bias, -1.0, 1.0)
    x = torch.randn(shape).double()
    with torch.no_grad():
        want = model(x)
        network, rows = simplify_norms(model, x)
        torch.testing.assert_close(network(x), want, rtol=FORMULA_64, atol=FORMULA_64)
    return network, rows


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.InstanceNorm1d(6), (2, 6, 5)),
        (nn.InstanceNorm2d(6, affine=True), (2, 6, 5, 5)),
        (nn.InstanceNorm3d(6, eps=1e-3), (2, 6, 3, 3, 3)),
        (norm_layer("gn:groups=3")(6, act_layer=nn.ELU), (2, 6, 5, 5)),
        (norm_layer("gn:groups=3")(6, act_layer=nn.SiLU, drop_layer=nn.Identity), (2, 6, 5, 5)),
        (CalibratedGroupNorm(3, 6, input_affine=False), (2, 6, 5, 5)),
    ],
)
def test_they_become_group_norms(norm, shape):
    network, rows = simplified(nn.Sequential(nn.ReLU(), norm), shape)
    assert [row.action for row in rows] == [PLAIN]
    (found,) = group_norms(network)
    assert isinstance(found[0].module, GroupNorm)


def test_timms_norms_with_activation():
    timm = pytest.importorskip("timm")
    network, _ = simplified(nn.Sequential(timm.layers.GroupNormAct(6, 3)), (2, 6, 5, 5))
    assert type(network[0]) is GroupNorm
    assert network[0].activation == "relu"
    norm = timm.layers.GroupNormAct(6, 3, act_layer=nn.ELU)
    network, _ = simplified(nn.Sequential(norm), (2, 6, 5, 5))
    assert [type(part) for part in network[0]] == [GroupNorm, nn.ELU]


@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 6), GroupNorm(2, 6), GroupNormAct(2, 6)])
def test_group_norms_are_as_they_were(norm):
    network, rows = simplified(nn.Sequential(nn.ReLU(), norm), (2, 6, 5, 5))
    assert network[1] is norm
    assert rows == []


def test_scale_and_offset_before_a_norm_go_into_the_convolution():
    model = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), CalibratedGroupNorm(3, 6))
    network, rows = simplified(model, (2, 3, 5, 5))
    assert type(network[1]) is GroupNorm
    assert [row.action for row in rows] == [FOLDED]
    model = nn.Sequential(nn.ConvTranspose2d(4, 6, 2, groups=2), CalibratedGroupNorm(3, 6))
    network, rows = simplified(model, (2, 4, 5, 5))
    assert [row.action for row in rows] == [FOLDED]


def test_or_become_a_batch_norm():
    model = nn.Sequential(nn.ReLU(), CalibratedGroupNorm(3, 6, activation="relu"))
    network, rows = simplified(model, (2, 6, 5, 5))
    assert [type(part) for part in network[1]] == [nn.BatchNorm2d, GroupNorm]
    assert network[1].norm.activation == "relu"
    assert [row.action for row in rows] == [PLAIN]


def test_or_where_the_layers_weights_would_not_be_finite():
    model = nn.Sequential(nn.Conv2d(3, 6, 1), CalibratedGroupNorm(3, 6)).eval()
    with torch.no_grad():
        model[0].weight.fill_(1e-20)
        model[0].bias.fill_(1e25)
        model[1].input_weight.fill_(1e20)
    network, rows = simplify_norms(model, torch.zeros(1, 3, 4, 4))
    assert network[0].bias.isfinite().all()
    assert [type(part) for part in network[1]] == [nn.BatchNorm2d, GroupNorm]
    assert "the weights of 0 would not be finite" in rows[0].detail


@pytest.mark.parametrize("spec", ["ln2d", "frn", "evonorm_s0"])
def test_norms_of_ordinary_operators_stay(spec):
    norm = norm_layer(spec)(6)
    network, rows = simplified(nn.Sequential(norm), (2, 6, 5, 5))
    assert network[0] is norm
    assert [row.action for row in rows] == [KEPT]
    exported = torch.export.export(network, (torch.randn(2, 6, 5, 5).double(),))
    calls = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
    assert calls
    assert all(name.startswith("aten.") for name in calls)


def test_stored_statistics_in_part_stay():
    norm = CalibratedGroupNorm(3, 6, hybrid=0.5)
    network, rows = simplified(nn.Sequential(norm), (2, 6, 5, 5))
    assert network[0] is norm
    assert "mixes stored statistics" in rows[0].detail


def test_pytorchs_layer_norm_stays_without_a_word():
    network, rows = simplified(nn.Sequential(nn.LayerNorm(6), nn.RMSNorm(6)), (2, 6))
    assert rows == []
    assert [type(m) for m in network] == [nn.LayerNorm, nn.RMSNorm]


def test_an_instance_norm_without_a_batch_dimension_stays():
    network, rows = simplified(nn.Sequential(nn.InstanceNorm2d(6)), (6, 5, 5))
    assert type(network[0]) is nn.InstanceNorm2d
    assert "no batch dimension" in rows[0].detail


def test_a_norm_that_an_attribute_holds_too_stays():
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.InstanceNorm2d(6))
    model.held = [model[1]]
    network, rows = simplified(model, (1, 3, 4, 4))
    assert type(network[1]) is nn.InstanceNorm2d
    assert "holds it too" in rows[0].detail


def test_hooks_stay():
    model, seen = nn.Sequential(nn.InstanceNorm2d(6)), []
    model[0].register_forward_hook(lambda module, args, output: seen.append(type(module)))
    network, _ = simplified(model, (2, 6, 5, 5))
    seen.clear()
    network(torch.randn(2, 6, 5, 5).double())
    assert seen == [GroupNorm]


def test_a_norm_alone_is_a_network():
    network, _ = simplified(nn.InstanceNorm2d(6), (2, 6, 5, 5))
    assert type(network) is GroupNorm
