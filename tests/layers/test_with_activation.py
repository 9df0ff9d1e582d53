"""A norm and its activation as one layer, as timm asks for it."""

import functools
import pickle

import pytest
import torch
import torchvision
from torch import nn

from groupnorm.layers import GroupNorm, norm_layer
from groupnorm.layers.with_activation import fused_activation
from groupnorm.ops.group_norm.activations import ACTIVATIONS, activate
from groupnorm.spec import KINDS

X = torch.linspace(-6, 6, 96).view(2, 3, 4, 4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("act_layer", "act_kwargs", "function"),
    [
        (nn.ReLU, {}, torch.relu), (nn.ReLU, {"inplace": False}, torch.relu),
        ("silu", {}, nn.functional.silu), (nn.GELU, {}, nn.functional.gelu),
        (nn.GELU, {"approximate": "tanh"}, lambda x: nn.functional.gelu(x, approximate="tanh")),
        (nn.LeakyReLU, {}, nn.functional.leaky_relu),
        (nn.LeakyReLU, {"negative_slope": 0.2}, lambda x: nn.functional.leaky_relu(x, 0.2)),
        (nn.Mish, {}, nn.functional.mish), ("hard_swish", {}, nn.functional.hardswish),
        (nn.ReLU6, {}, nn.functional.relu6), ("elu", {}, nn.functional.elu),
        (functools.partial(nn.CELU, 2.0), {}, lambda x: nn.functional.celu(x, 2.0)),
        (nn.PReLU, {}, lambda x: nn.functional.leaky_relu(x, 0.25)),
    ],
)  # fmt: skip
def test_an_activation_asked_for_is_applied(kind, act_layer, act_kwargs, function):
    norm = norm_layer(kind)
    layer = norm(3, act_layer=act_layer, act_kwargs=act_kwargs, inplace=True)
    own = norm.brings_activation
    expected = norm(3)(X) if own else function(norm(3, apply_act=False)(X))
    before = X.clone()
    torch.testing.assert_close(layer(X), expected)
    assert torch.equal(X, before)
    keys = set(norm(3).state_dict())
    if act_layer is nn.PReLU and not own:
        keys.add("act.weight")
    assert set(layer.state_dict()) == keys
    twin = pickle.loads(pickle.dumps(layer))
    assert torch.equal(twin.eval()(X), layer.eval()(X))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("asked", [
    {"apply_act": True}, {"inplace": True}, {"act_kwargs": {}}, {"drop_layer": nn.Identity},
])  # fmt: skip
def test_whatever_asks_for_an_activation_gets_relu_by_default(kind, asked):
    norm = norm_layer(kind)
    expected = norm(3)(X) if norm.brings_activation else norm(3, apply_act=False)(X).relu()
    torch.testing.assert_close(norm(3, **asked)(X), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("asked", [
    {"apply_act": False, "act_layer": nn.ReLU}, {"act_layer": None}, {"act_layer": ""},
])  # fmt: skip
def test_an_activation_that_is_not_wanted_is_left_out(kind, asked):
    norm = norm_layer(kind)
    torch.testing.assert_close(norm(3, inplace=True, **asked)(X), norm(3, apply_act=False)(X))


@pytest.mark.parametrize("kind", KINDS)
def test_an_activation_of_an_unknown_name_is_an_error(kind):
    """Also for a norm that has an activation of its own."""
    with pytest.raises(ValueError, match=r"timm's name of an activation, .* got 'nonsense'"):
        norm_layer(kind)(8, act_layer="nonsense")


@pytest.mark.parametrize("kind", KINDS)
def test_a_drop_layer_comes_before_the_activation(kind):
    class Negate(nn.Module):
        def forward(self, x):
            return -x

    norm = norm_layer(kind)
    expected = -norm(3)(X) if norm.brings_activation else (-norm(3)(X)).relu()
    torch.testing.assert_close(norm(3, act_layer=nn.ReLU, drop_layer=Negate)(X), expected)
    plain = norm(3, apply_act=False, drop_layer=Negate)
    torch.testing.assert_close(plain(X), -norm(3, apply_act=False)(X))


def test_the_activation_of_the_factory_comes_first():
    layer = norm_layer("gn:groups=1", activation="silu")(3, act_layer=nn.ReLU)
    assert (type(layer), layer.activation) == (GroupNorm, "silu")
    assert norm_layer("gn", activation="silu")(3, act_layer=None).activation is None


def test_a_call_without_such_arguments_is_the_norm_alone():
    for kind in KINDS:
        x = norm_layer(kind)(3, device="cpu", dtype=torch.float32)(X)
        assert norm_layer(kind).brings_activation or x.min() < -1
    model = torchvision.models.resnet18(norm_layer=norm_layer("gn:groups=8"))
    assert all(m.activation is None for m in model.modules() if isinstance(m, GroupNorm))


def test_fused_activations_are_those_of_their_modules():
    modules = [nn.ReLU(), nn.LeakyReLU(), nn.SiLU(), nn.GELU(), nn.GELU("tanh"), nn.Mish(),
               nn.Hardswish()]  # fmt: skip
    assert tuple(fused_activation(module) for module in modules) == ACTIVATIONS
    for module in modules:
        torch.testing.assert_close(activate(X, fused_activation(module)), module(X))
    others = [nn.ReLU6(), nn.LeakyReLU(0.2), nn.ELU(), nn.PReLU(), nn.Identity()]
    assert [fused_activation(module) for module in others] == [None] * 5
