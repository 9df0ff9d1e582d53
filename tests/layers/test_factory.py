"""NormSpec -> layer: the divisor rule, host libraries, kinds without a layer."""

import pytest
import torch
from torch import nn

from groupnorm.layers import (
    BatchNorm,
    BatchRenorm,
    GroupNorm,
    ScaledWSConv2d,
    WSConv2d,
    conv_layer,
    norm_and_activation,
    norm_layer,
)
from groupnorm.spec import KINDS, NormSpec


@pytest.mark.parametrize(
    ("spec", "channels", "groups"),
    [
        ("gn", 64, 32), ("gn", 16, 16), ("gn", 24, 24), ("gn", 48, 24), ("gn", 30, 30),
        ("gn:groups=auto", 64, 16), ("gn:groups=auto", 16, 4), ("gn:groups=auto", 3, 1),
        ("gn:groups=8", 20, 5), ("gn:groups=8", 7, 7), ("gn:groups=8", 11, 1),
        ("gn:size=16", 64, 4), ("gn:size=16", 24, 2), ("gn:size=16", 8, 1),
        ("ln", 64, 1), ("in", 64, 64),
    ],
)  # fmt: skip
def test_divisor_rule(spec, channels, groups):
    layer = norm_layer(spec)(channels)
    assert isinstance(layer, GroupNorm)
    assert layer.num_groups == groups
    assert f"channels_per_group={channels // groups}" in repr(layer)
    layer(torch.randn(2, channels, 3, 3))


def test_fields_of_the_spec_reach_the_layer():
    layer = norm_layer("gn:eps=0.001,affine=false")(8)
    assert (layer.eps, layer.affine) == (1e-3, False)
    layer = norm_layer("bn:eps=0.01", batch_per_worker=5)(8)
    assert isinstance(layer, BatchNorm)
    assert (layer.eps, layer.batch_per_worker) == (0.01, 5)
    assert isinstance(norm_layer("none")(8), nn.Identity)


def test_instance_norm_is_affine():
    assert norm_layer("in")(8).weight.shape == (8,)


def test_a_factory_is_passed_through():
    factory = norm_layer("bn", batch_per_worker=2)
    assert norm_layer(factory) is norm_layer(factory, batch_per_worker=2) is factory
    with pytest.raises(ValueError, match=r"factory has batch_per_worker=2, got 4"):
        norm_layer(factory, batch_per_worker=4)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        norm_layer("bn", batch_per_worker=0)
    assert norm_layer(NormSpec("gn")) == norm_layer("gn")


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"gn", "ln", "in"}))
def test_only_group_norms_fuse_an_activation(kind):
    with pytest.raises(ValueError, match=f"an activation goes with gn, ln and in, not with {kind}"):
        norm_layer(kind, activation="relu")


def test_fields_of_the_other_kinds_reach_the_layer():
    layer = norm_layer("brn:r=3,d=5,ramp=40,eps=0.01", batch_per_worker=5)(8)
    assert isinstance(layer, BatchRenorm)
    assert (layer.r_max, layer.d_max, layer.ramp_steps) == (3, 5, 40)
    assert (layer.eps, layer.batch_per_worker) == (0.01, 5)
    layer = norm_layer("brn")(8)
    assert (layer.r_max, layer.d_max, layer.ramp_steps) == (1.5, 0.5, 0)
    layer = norm_layer("frn:learn_eps=true,affine=false")(8)
    assert {name for name, _ in layer.named_parameters()} == {"tau", "learned_eps"}
    layer = norm_layer("evonorm_s0:size=4,eps=0.01")(8)
    assert (layer.num_groups, layer.eps) == (2, 0.01)
    assert norm_layer("frozenbn:eps=0.01")(8).eps == 0.01
    assert norm_layer("ln2d")(8).eps == 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_a_norm_and_its_activation(kind):
    norm = norm_layer(kind)
    layer, follows = norm_and_activation(norm, 8)
    assert isinstance(follows, nn.Identity) == (kind in ("frn", "evonorm_s0"))
    plain = norm(8, apply_act=False)
    x = torch.randn(4, 8, 3, 3)
    assert follows(layer(x)).min() > -1  # EvoNorm's x * sigmoid(x) is a little below 0
    assert plain(x).min() < -1


def test_an_activation_asked_for_is_not_doubled():
    layer, follows = norm_and_activation(norm_layer("gn:groups=2", activation="silu"), 8)
    assert isinstance(follows, nn.Identity)
    assert layer.activation == "silu"
    _, follows = norm_and_activation(norm_layer("gn"), 8, nn.SiLU)
    assert isinstance(follows, nn.SiLU)


def test_convolutions():
    assert conv_layer("gn") is nn.Conv2d
    assert isinstance(conv_layer("gn+ws")(3, 4, 3), WSConv2d)
    assert conv_layer(norm_layer("gn+ws")) is conv_layer(NormSpec("gn", ws=True)) is WSConv2d
    conv = conv_layer("none+nf", "relu")(3, 4, 3)
    assert isinstance(conv, ScaledWSConv2d)
    assert conv.activation == "relu"


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_convolutions_of_all_dimensions(dims, transposed):
    name = f"Conv{'Transpose' if transposed else ''}{dims}d"
    plain = conv_layer("gn", dims=dims, transposed=transposed)
    assert plain is getattr(nn, name)
    standardized = conv_layer("gn+ws", dims=dims, transposed=transposed)
    assert standardized.__name__ == f"WS{name}"
    x = torch.randn(1, 3, *[5] * dims)
    assert standardized(3, 4, 3)(x).shape == plain(3, 4, 3)(x).shape


def test_convolutions_that_are_not_there():
    with pytest.raises(ValueError, match="1, 2 or 3 dimensions, got dims=4"):
        conv_layer("gn", dims=4)
    for options in ({"dims": 3}, {"transposed": True}):
        with pytest.raises(ValueError, match=r"none\+nf has plain convolutions of 2 dimensions"):
            conv_layer("none+nf", **options)


def test_torchvision_takes_the_factory():
    import torchvision

    model = torchvision.models.resnet18(norm_layer=norm_layer("gn"), num_classes=3)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 3)
    assert sum(isinstance(m, GroupNorm) for m in model.modules()) == 20


def test_device_and_dtype_are_accepted():
    layer = norm_layer("gn")(8, device="meta", dtype=torch.float64)
    assert layer.weight.is_meta
    assert layer.weight.dtype == torch.float64
