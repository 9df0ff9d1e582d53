"""Norms with stored statistics go into the layer in front, or become PyTorch's batch norm."""

import pytest
import torch
from torch import nn

from groupnorm.conversion import freeze, freeze_groups
from groupnorm.export.preparation.constants import fold_constants
from groupnorm.export.preparation.report import FOLDED, KEPT, PLAIN
from groupnorm.layers import (
    BatchNorm,
    BatchRenorm,
    FrozenBatchNorm,
    SyncBatchNorm,
    norm_layer,
)
from tests.conversion.networks import UNet, batch_norms, small_network
from tests.export.preparation.networks import random_affine
from tests.tolerances import FORMULA_64


def folded(model, shape):
    """The network with folded constants, which computes what the model does, and the rows."""
    model = random_affine(model).double()
    x = torch.randn(shape).double()
    with torch.no_grad():
        want = model(x)
        network, rows = fold_constants(model, x)
        torch.testing.assert_close(network(x), want, rtol=FORMULA_64, atol=FORMULA_64)
    return network, rows


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm2d, nn.SyncBatchNorm, BatchNorm, SyncBatchNorm, BatchRenorm,
             FrozenBatchNorm, lambda c: nn.InstanceNorm2d(c, affine=True, track_running_stats=True)]
)  # fmt: skip
def test_constants_go_into_the_convolution_in_front(norm):
    network, rows = folded(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), norm(8)), (2, 3, 6, 6))
    assert type(network[1]) is nn.Identity
    assert [row.action for row in rows] == [FOLDED]
    assert rows[0].detail.endswith("into 0")


@pytest.mark.parametrize(
    ("norm", "shape", "kind"),
    [
        (FrozenBatchNorm, (4, 8), nn.BatchNorm1d),
        (BatchNorm, (4, 8, 5), nn.BatchNorm1d),
        (SyncBatchNorm, (2, 8, 5, 5), nn.BatchNorm2d),
        (BatchRenorm, (2, 8, 3, 3, 3), nn.BatchNorm3d),
        (lambda c: nn.InstanceNorm1d(c, track_running_stats=True), (2, 8, 5), nn.BatchNorm1d),
    ],
)
def test_elsewhere_they_become_batch_norm(norm, shape, kind):
    network, rows = folded(nn.Sequential(nn.ReLU(), norm(8), nn.ReLU()), shape)
    assert type(network[1]) is kind
    assert not network[1].training
    assert [row.action for row in rows] == [PLAIN]
    assert "no convolution or linear layer makes its input" in rows[0].detail


def test_pytorchs_batch_norm_stays_where_it_cannot_be_folded():
    network, rows = folded(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(8)), (2, 8, 4, 4))
    assert type(network[1]) is nn.BatchNorm2d
    assert [row.action for row in rows] == [KEPT]


def test_what_follows_a_norm_within_its_layer_stays():
    act = norm_layer("frozenbn")(8, act_layer=nn.SiLU)
    network, _ = folded(nn.Sequential(nn.Conv2d(3, 8, 1), act), (2, 3, 4, 4))
    assert [type(m) for m in network[1].children()] == [nn.Identity, nn.SiLU]
    act = norm_layer("frozenbn")(8, act_layer=nn.SiLU)
    network, rows = folded(nn.Sequential(nn.ReLU(), act), (2, 8, 4, 4))
    assert [type(m) for m in network[1].children()] == [nn.BatchNorm2d, nn.SiLU]
    assert "to BatchNorm2d and SiLU" in rows[0].detail


def test_frozen_networks_are_folded():
    model, _ = freeze(random_affine(small_network()))
    network, rows = folded(model, (2, 3, 8, 8))
    assert {row.action for row in rows} == {FOLDED}
    assert batch_norms(network) == []
    network, rows = folded(UNet(), (2, 3, 8, 8))
    assert len(rows) == 4
    assert batch_norms(network) == []


def test_frozen_group_norms_are_folded():
    model = random_affine(nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU()))
    frozen, _ = freeze_groups(model, [torch.randn(4, 3, 6, 6)])
    network, rows = folded(frozen, (2, 3, 6, 6))
    assert type(network[1]) is nn.Identity
    assert [row.action for row in rows] == [FOLDED]


def test_a_shared_convolution_keeps_its_weights():
    conv = nn.Conv2d(3, 3, 3, padding=1)
    model = nn.Sequential(conv, BatchNorm(3), conv, BatchNorm(3))
    network, rows = folded(model, (2, 3, 5, 5))
    assert network[0] is network[2]
    assert [type(network[i]) for i in (1, 3)] == [nn.BatchNorm2d, nn.BatchNorm2d]
    assert {row.action for row in rows} == {PLAIN}


def test_a_norm_with_hooks_stays_a_layer_with_hooks():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), FrozenBatchNorm(8))
    seen = []
    model[1].register_forward_hook(lambda *_: seen.append(1))
    network, rows = folded(model, (2, 3, 5, 5))
    assert type(network[1]) is nn.BatchNorm2d
    assert "its hooks would see" in rows[0].detail
    seen.clear()
    network(torch.randn(2, 3, 5, 5).double())
    assert len(seen) == 1


def test_a_norm_that_does_not_run_is_named():
    model = nn.ModuleDict({"a": nn.Conv2d(3, 3, 1), "b": FrozenBatchNorm(3)}).eval()
    network, rows = fold_constants(model, lambda m: m["a"](torch.randn(1, 3, 4, 4)))
    assert type(network["b"]) is FrozenBatchNorm
    assert [(row.layer, row.action) for row in rows] == [("b", KEPT)]
    assert "does not run" in rows[0].detail


def test_an_instance_norm_without_a_batch_dimension_is_named():
    model = nn.Sequential(nn.InstanceNorm2d(4, track_running_stats=True))
    network, rows = folded(model, (4, 5, 5))
    assert type(network[0]) is nn.InstanceNorm2d
    assert [row.action for row in rows] == [KEPT]


def test_a_norm_of_an_unknown_kind_is_named():
    class Own(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x) * 2

    network, rows = folded(nn.Sequential(nn.Conv2d(3, 4, 1), Own(4)), (1, 3, 4, 4))
    assert type(network[1]) is Own
    assert [row.action for row in rows] == [KEPT]
    assert "a forward of its own" in rows[0].detail
