"""Whole models between flax and PyTorch: the same outputs, bits and steps; what is refused."""

import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from groupnorm.frameworks.weights import WeightsError
from groupnorm.layers import GroupNorm as TorchGroupNorm
from groupnorm.layers import LayerNorm2d, WSConv2d
from groupnorm.models import build_model
from tests.frameworks.trained import assert_the_same, trained_resnet20
from tests.tolerances import LAYER, NETWORK

pytest.importorskip("jax")
pytest.importorskip("flax")
import jax
import jax.numpy as jnp
from flax import nnx

from groupnorm.frameworks.jax import GroupNorm, from_torch, to_torch
from tests.frameworks.jax.networks import ResNetCifar, WSConv


def images(n=4, size=16):
    x = torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1))
    return x, jnp.asarray(x.permute(0, 2, 3, 1).numpy())


def torch_resnet(depth=8, zero_gamma=False):
    return build_model(f"resnet{depth}", norm="gn:groups=8+ws", num_classes=10,
                       zero_gamma=zero_gamma)  # fmt: skip


def arrays(model):
    kinds = nnx.Any(nnx.Param, nnx.BatchStat)
    return jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, kinds)))


def same(one, other):
    return jax.tree.all(jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), one, other))


# ---- What fits ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_resnet_has_the_same_outputs_and_goes_back_bit_for_bit():
    theirs = torch_resnet()
    ours = ResNetCifar(8, 8, nnx.Rngs(0))
    from_torch(theirs, ours)
    x, x_last = images()
    expected = theirs(x).detach()
    near = NETWORK * float(expected.abs().max())
    np.testing.assert_allclose(nnx.jit(ours)(x_last), expected, rtol=0, atol=near)

    back = torch_resnet()
    assert not torch.equal(back.conv1.weight, theirs.conv1.weight)
    to_torch(ours, back)
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name
    again = ResNetCifar(8, 8, nnx.Rngs(1))
    from_torch(back.state_dict(), again, eps=1e-5)
    assert same(arrays(again), arrays(ours))


@pytest.mark.slow
def test_a_trained_network_has_the_same_test_error_to_the_image():
    network, x, labels = trained_resnet20()
    ours = ResNetCifar(20, 8, nnx.Rngs(0))
    from_torch(network, ours)
    parts = [jnp.asarray(part.permute(0, 2, 3, 1).numpy()) for part in x.split(100)]
    found = np.concatenate([np.asarray(nnx.jit(ours)(part)) for part in parts])
    assert_the_same(found, network, x, labels, NETWORK)
    back = torch_resnet(20)
    to_torch(ours, back)
    for name, tensor in network.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name


@pytest.mark.slow
def test_two_steps_of_sgd_are_the_same():
    theirs, ours = torch_resnet(), ResNetCifar(8, 8, nnx.Rngs(0))
    from_torch(theirs, ours)
    labels = torch.tensor([3, 1, 4, 1])
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9)
    graph, parameters = nnx.split(ours)
    velocity = jax.tree.map(jnp.zeros_like, parameters)

    @jax.jit
    def gradient(parameters, x):
        def loss(parameters):
            logits = nnx.merge(graph, parameters)(x)
            return -jax.nn.log_softmax(logits)[jnp.arange(4), jnp.asarray(labels.numpy())].mean()

        return jax.grad(loss)(parameters)

    before = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    for _ in range(2):
        x, x_last = images()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(theirs(x), labels).backward()
        optimizer.step()
        velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, gradient(parameters, x_last))
        parameters = jax.tree.map(lambda p, v: p - 0.1 * v, parameters, velocity)
    found = torch_resnet()
    to_torch(nnx.merge(graph, parameters), found)
    for name, tensor in theirs.state_dict().items():
        assert torch.allclose(found.state_dict()[name], tensor, rtol=NETWORK, atol=NETWORK), name
        assert not torch.allclose(before[name], tensor, rtol=NETWORK, atol=NETWORK), name


class Kinds(nnx.Module):
    """One layer of each kind."""

    def __init__(self, rngs, **transposed):
        self.grouped = nnx.Conv(4, 8, (3, 2), padding="VALID", feature_group_count=2, rngs=rngs)
        self.depthwise = nnx.Conv(8, 16, (3, 3), padding=1, feature_group_count=8, rngs=rngs)
        self.up = nnx.ConvTranspose(16, 6, (3, 2), strides=2, padding="VALID", rngs=rngs,
                                    **transposed)  # fmt: skip
        self.norm = nnx.BatchNorm(6, use_running_average=True, rngs=rngs)
        self.last = GroupNorm(6, 2, rngs=rngs)
        self.head = nnx.Linear(6, 5, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)  # its random state has no place in PyTorch

    def __call__(self, x):
        x = self.norm(self.up(self.depthwise(self.grouped(x))))
        return self.head(self.last(x).mean((1, 2)))


class TorchKinds(nn.Module):
    def __init__(self):
        super().__init__()
        self.grouped = nn.Conv2d(4, 8, (3, 2), groups=2)
        self.depthwise = nn.Conv2d(8, 16, 3, padding=1, groups=8)
        self.up = nn.ConvTranspose2d(16, 6, (3, 2), stride=2)
        self.norm = nn.BatchNorm2d(6)
        self.last = nn.GroupNorm(2, 6)
        self.head = nn.Linear(6, 5)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        x = self.norm(self.up(self.depthwise(self.grouped(x))))
        return self.head(self.last(x).mean((2, 3)))


@pytest.mark.parametrize("transpose_kernel", [False, True])
def test_every_kind_of_layer(transpose_kernel):
    theirs, ours = TorchKinds().eval(), Kinds(nnx.Rngs(0), transpose_kernel=transpose_kernel)
    from_torch(theirs, ours, count=math.inf)
    x = torch.randn(2, 4, 6, 7)
    expected = theirs(x).detach()
    found = nnx.jit(ours)(jnp.asarray(x.permute(0, 2, 3, 1).numpy()))
    np.testing.assert_allclose(found, expected, rtol=NETWORK, atol=LAYER)
    back = TorchKinds()
    to_torch(ours, back, count=math.inf)
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name


def test_the_running_variance_is_converted():
    theirs, ours = TorchKinds(), Kinds(nnx.Rngs(0))
    from_torch(theirs, ours, count={"norm": 9})
    np.testing.assert_allclose(ours.norm.var[...], theirs.norm.running_var * 8 / 9, rtol=LAYER)
    assert np.array_equal(ours.norm.mean[...], theirs.norm.running_mean)
    back = TorchKinds()
    to_torch(ours, back, count=9)
    assert torch.allclose(back.norm.running_var, theirs.norm.running_var)


def test_weights_have_their_own_memory():
    theirs, ours = nn.Linear(3, 3), nnx.Linear(3, 3, rngs=nnx.Rngs(0))
    from_torch(theirs, ours)
    before = np.array(ours.bias[...])
    with torch.no_grad():
        theirs.bias.add_(1)
    assert np.array_equal(ours.bias[...], before)


def test_names_that_differ_are_given():
    theirs = nn.Sequential(nn.Linear(3, 4), nn.GroupNorm(2, 4), nn.Linear(4, 2))
    ours = nnx.Sequential(
        nnx.Linear(3, 4, rngs=nnx.Rngs(0)), GroupNorm(4, 2, rngs=nnx.Rngs(0)),
        nnx.Linear(4, 2, rngs=nnx.Rngs(0)),
    )  # fmt: skip
    with pytest.raises(WeightsError, match=re.escape("0.weight (4, 3)")):
        from_torch(theirs, ours)
    from_torch(theirs, ours, names={"": "layers"})
    x = torch.randn(5, 3)
    np.testing.assert_allclose(ours(jnp.asarray(x.numpy())), theirs(x).detach(), rtol=NETWORK,
                               atol=LAYER)  # fmt: skip


def test_bfloat16_is_carried_bit_for_bit():
    theirs = nn.Linear(3, 4, dtype=torch.bfloat16)
    ours = nnx.Linear(3, 4, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    from_torch(theirs, ours)
    back = nn.Linear(3, 4, dtype=torch.bfloat16)
    to_torch(ours, back)
    assert torch.equal(back.weight, theirs.weight)
    assert torch.equal(back.bias, theirs.bias)


# ---- What is refused ----------------------------------------------------------------------------


def refused(source, model, *messages, **options):
    """Loading is refused with all messages, and the model is as it was; so the other way."""
    before = arrays(model)
    with pytest.raises(WeightsError, match="nothing was loaded") as error:
        from_torch(source, model, **options)
    for message in messages:
        assert message in str(error.value), str(error.value)
    assert same(arrays(model), before)
    if isinstance(source, nn.Module):
        state = {name: tensor.clone() for name, tensor in source.state_dict().items()}
        with pytest.raises(WeightsError, match="nothing was loaded"):
            to_torch(model, source, **options)
        assert all(torch.equal(source.state_dict()[name], state[name]) for name in state)


def test_every_name_that_does_not_fit_is_listed():
    theirs, ours = torch_resnet(), ResNetCifar(8, 8, nnx.Rngs(0))
    theirs.linear = nn.Linear(64, 7)
    theirs.extra = nn.Linear(2, 2)
    theirs.stages[2][0].norm1.bias = None
    refused(
        theirs, ours, "linear.weight (7, 64), where linear.kernel (64, 10) takes (10, 64)",
        "linear.bias (7,)", "extra.weight (2, 2)", "extra.bias (2,)",
        "stages.2.0.norm1.bias (64,)",
    )  # fmt: skip


def test_eps_is_compared_and_carried_or_refused():
    theirs = nn.Sequential(nn.GroupNorm(2, 4), nn.BatchNorm1d(4), nn.LayerNorm(4, eps=1e-3))
    rngs = nnx.Rngs(0)
    ours = nnx.List([nnx.GroupNorm(4, 2, rngs=rngs), nnx.BatchNorm(4, rngs=rngs),
                     nnx.LayerNorm(4, epsilon=1e-3, rngs=rngs)])  # fmt: skip
    model = nnx.Sequential(*ours)
    names = {"": "layers"}
    refused(theirs, model, "eps (carry_eps=True", "layers.0: 1e-06, in PyTorch 1e-05",
            count=8, names=names)  # fmt: skip
    with pytest.raises(WeightsError) as error:
        from_torch(theirs, model, count=8, names=names)
    assert "layers.1" not in str(error.value)
    assert "layers.2" not in str(error.value)
    from_torch(theirs, model, count=8, names=names, carry_eps=True)
    assert [layer.epsilon for layer in model.layers] == [1e-5, 1e-5, 1e-3]
    model.layers[2].epsilon = 1e-4
    to_torch(model, theirs, count=8, names=names, carry_eps=True)
    assert [layer.eps for layer in theirs] == [1e-5, 1e-5, 1e-4]


def test_eps_of_norms_without_weights_is_compared_too():
    theirs = nn.ModuleDict({"a": nn.GroupNorm(2, 4, affine=False), "c": nn.Linear(2, 2)})

    class Bare(nnx.Module):
        def __init__(self, name, **options):
            norm = GroupNorm(4, 2, use_scale=False, use_bias=False, rngs=nnx.Rngs(0), **options)
            setattr(self, name, norm)
            self.c = nnx.Linear(2, 2, rngs=nnx.Rngs(0))

    from_torch(theirs, Bare("a"))
    refused(theirs, Bare("a", epsilon=1e-6), "a: 1e-06, in PyTorch 1e-05")
    refused(theirs, Bare("b"), "norms without weights, in the model alone:\n    b",
            "norms without weights, in PyTorch alone:\n    a")  # fmt: skip


def test_a_state_dict_does_not_tell_eps():
    theirs, ours = torch_resnet(), ResNetCifar(8, 8, nnx.Rngs(0))
    state = theirs.state_dict()
    refused(state, ours, "give eps=... or the model", "stages.2.0.norm2: none given")
    refused(state, ours, "norm1: 1e-05, in PyTorch 0.001", eps=1e-3)
    from_torch(state, ours, eps=1e-3, carry_eps=True)
    assert ours.stages[1][0].norm1.epsilon == 1e-3
    with pytest.raises(WeightsError, match=r"says its eps itself; leave out eps=0\.001"):
        from_torch(theirs, ours, eps=1e-3)


def test_eps_that_pytorch_does_not_have():
    class Affine(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))

    theirs = nn.ModuleDict({"norm": Affine()})
    ours = nnx.Dict(norm=nnx.LayerNorm(4, rngs=nnx.Rngs(0)))

    class Model(nnx.Module):
        def __init__(self):
            self.norm = ours.norm

    for carry in (False, True):
        refused(theirs, Model(), "PyTorch's module does not tell:\n    norm", carry_eps=carry)


def test_batch_norm_wants_a_count():
    theirs, ours = TorchKinds(), Kinds(nnx.Rngs(0))
    refused(theirs, ours, "needs count=...", "norm: none given")
    refused(theirs, ours, "other: given, but there is none", count={"norm": 8, "other": 8})
    with pytest.raises(WeightsError, match="more than 1, got 1"):
        from_torch(theirs, ours, count=1)


def test_another_number_of_groups():
    refused(nn.ModuleDict({"n": nn.GroupNorm(4, 8)}), holding(GroupNorm(8, 2, rngs=nnx.Rngs(0))),
            "number of groups", "n: 2, in PyTorch 4")  # fmt: skip


def holding(layer):
    class Model(nnx.Module):
        def __init__(self):
            self.n = layer

    return Model()


@pytest.mark.parametrize(
    ("ours", "theirs", "text"),
    [
        (nnx.Conv, WSConv2d, "n: None, None, in PyTorch timm, 1e-06"),
        (WSConv, nn.Conv2d, "n: timm, 1e-06, in PyTorch None, None"),
        (WSConv, lambda *a, **k: WSConv2d(*a, **k, ws_form="bit"), "in PyTorch bit, 1e-10"),
        (WSConv, lambda *a, **k: WSConv2d(*a, **k, ws_eps=1e-5), "timm, 1e-06, in PyTorch timm, 1"),
    ],
)
def test_standardized_weights_go_to_their_like_alone(ours, theirs, text):
    options = {} if ours is WSConv else {"use_bias": False}
    model = holding(ours(2, 4, (3, 3), padding=1, rngs=nnx.Rngs(0), **options))
    source = nn.ModuleDict({"n": theirs(2, 4, 3, padding=1, bias=False)})
    refused(source, model, "weight standardization", text)


@pytest.mark.parametrize(
    ("ours", "theirs", "fits"),
    [
        ({"padding": "SAME", "strides": 2}, {"padding": 1, "stride": 2}, False),
        ({"padding": 1, "strides": 2}, {"padding": 1, "stride": 2}, True),
        ({"padding": "SAME"}, {"padding": 1}, True),
        ({"padding": "SAME"}, {"padding": "same"}, True),
        ({"padding": "SAME", "kernel_dilation": 2}, {"padding": 2, "dilation": 2}, True),
        ({"padding": "SAME"}, {"padding": 0}, False),
        ({"padding": "VALID"}, {"padding": 0}, True),
        ({"padding": ((1, 1), (0, 1))}, {"padding": (1, 0)}, False),
        ({"padding": (1, (2, 2))}, {"padding": (1, 2)}, True),
        ({"padding": "CIRCULAR"}, {"padding": 1, "padding_mode": "circular"}, True),
        ({"padding": "CIRCULAR"}, {"padding": 1}, False),
        ({"padding": 1}, {"padding": 1, "padding_mode": "reflect"}, False),
        ({"padding": 1, "strides": 2}, {"padding": 1}, False),
        ({"padding": 1, "strides": None}, {"padding": 1}, True),
        ({"padding": 1, "strides": (1, 2)}, {"padding": 1, "stride": (2, 1)}, False),
        ({"padding": 2, "kernel_dilation": 2}, {"padding": 2}, False),
        ({"padding": 1, "input_dilation": 2}, {"padding": 1}, False),
        ({"padding": 1, "mask": jnp.zeros((3, 3, 2, 4))}, {"padding": 1}, False),
    ],
    ids=str,
)
def test_padding_and_strides(ours, theirs, fits):
    """What is accepted computes the same; SAME with a stride pads by the size of the map."""
    source = nn.ModuleDict({"n": nn.Conv2d(2, 4, 3, **theirs)})
    assert_fits(source, holding(nnx.Conv(2, 4, (3, 3), rngs=nnx.Rngs(0), **ours)), fits)


@pytest.mark.parametrize(
    ("ours", "theirs", "fits"),
    [
        ({"padding": "VALID"}, {}, True),
        ({"padding": "VALID", "strides": 2}, {"stride": 2}, True),
        ({"padding": "VALID", "strides": 2}, {}, False),
        ({"padding": "VALID", "strides": 4}, {"stride": 4}, False),
        ({"padding": "VALID", "strides": 4}, {"stride": 4, "output_padding": 1}, True),
        ({"padding": "VALID", "kernel_dilation": 2}, {"dilation": 2}, True),
        ({"padding": "VALID", "kernel_dilation": 2}, {}, False),
        ({"padding": "VALID"}, {"padding": 1}, False),
        ({"padding": 1}, {"padding": 1}, True),
        ({"padding": 2}, {"padding": 1}, False),
        ({"padding": 2}, {}, True),
        ({"padding": "SAME"}, {"padding": 1}, True),
        ({"padding": "SAME", "strides": 2}, {"stride": 2, "padding": 1}, False),
        ({"padding": ((1, 2), (1, 2)), "strides": 2},
         {"stride": 2, "padding": 1, "output_padding": 1}, True),
        ({"padding": "CIRCULAR"}, {"padding": 1}, False),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("transpose_kernel", [False, True])
def test_transposed_padding_and_strides(ours, theirs, fits, transpose_kernel):
    source = nn.ModuleDict({"n": nn.ConvTranspose2d(2, 4, 3, **theirs)})
    model = nnx.ConvTranspose(
        2, 4, (3, 3), rngs=nnx.Rngs(0), transpose_kernel=transpose_kernel, **ours
    )
    assert_fits(source, holding(model), fits)


def assert_fits(source, model, fits):
    if not fits:
        refused(source, model, ":\n    n: ")
        return
    from_torch(source, model)
    x = torch.randn(2, 2, 8, 6)
    found = model.n(jnp.asarray(x.permute(0, 2, 3, 1).numpy()))
    expected = source["n"](x).permute(0, 2, 3, 1).detach()
    np.testing.assert_allclose(found, expected, rtol=LAYER, atol=LAYER)


def test_what_is_wrong_with_a_convolution_is_named():
    def conv(kind=nnx.Conv, **options):
        return holding(kind(2, 2, (3, 3), padding="VALID", rngs=nnx.Rngs(0), **options))

    theirs = nn.ModuleDict({"n": nn.Conv2d(2, 2, 3)})
    refused(theirs, conv(strides=2), "strides:\n    n: (2, 2), in PyTorch (1, 1)")
    refused(theirs, conv(kernel_dilation=2), "dilation:\n    n: (2, 2), in PyTorch (1, 1)")
    refused(theirs, conv(input_dilation=2), "n: dilation of the input")
    refused(theirs, conv(mask=jnp.ones((3, 3, 2, 2))), "n: a mask")
    refused(theirs, conv(nnx.ConvTranspose), "transposed convolutions beside others")
    refused(nn.ModuleDict({"n": nn.ConvTranspose2d(2, 2, 3)}), conv(), "n: False, in PyTorch True")


@pytest.mark.parametrize(
    ("ours", "theirs", "text"),
    [
        (nnx.LayerNorm, lambda: nn.GroupNorm(1, 4),
         "n: layer norm over the channels, in PyTorch group norm"),
        (nnx.LayerNorm, lambda: nn.BatchNorm2d(4, track_running_stats=False),
         "in PyTorch batch norm without running statistics"),
        (nnx.LayerNorm, lambda: nn.InstanceNorm2d(4, affine=True), "in PyTorch group norm"),
        (lambda *a, **k: nnx.GroupNorm(*a, 1, **k), lambda: nn.LayerNorm(4),
         "n: group norm, in PyTorch layer norm"),
        (nnx.InstanceNorm, lambda: nn.GroupNorm(2, 4), "n: 4, in PyTorch 2"),
        (lambda *a, **k: GroupNorm(*a, 2, activation="silu", **k),
         lambda: TorchGroupNorm(2, 4, activation="relu"), "n: silu, in PyTorch relu"),
        (lambda *a, **k: nnx.LayerNorm(*a, reduction_axes=(1, 2, 3), **k), lambda: nn.LayerNorm(4),
         "axes of a norm:\n    n: reduction_axes=(1, 2, 3), where the channels are on axis -1"),
        (lambda *a, **k: nnx.InstanceNorm(*a, feature_axes=1, **k), lambda: nn.GroupNorm(4, 4),
         "n: feature_axes=1, where"),
    ],
)  # fmt: skip
def test_norms_that_compute_something_else(ours, theirs, text):
    model = holding(ours(4, epsilon=1e-5, rngs=nnx.Rngs(0)))
    refused(nn.ModuleDict({"n": theirs()}), model, text)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda *a, **k: nnx.GroupNorm(*a, 2, **k), lambda: nn.GroupNorm(2, 4)),
        (lambda *a, **k: nnx.GroupNorm(*a, 4, **k), lambda: nn.InstanceNorm2d(4, affine=True)),
        (nnx.InstanceNorm, lambda: nn.GroupNorm(4, 4)),
        (nnx.LayerNorm, lambda: LayerNorm2d(4, eps=1e-5)),
        (lambda *a, **k: GroupNorm(*a, 2, activation="silu", **k),
         lambda: TorchGroupNorm(2, 4, activation="silu")),
    ],
)  # fmt: skip
def test_norms_that_compute_the_same(ours, theirs):
    source = nn.ModuleDict({"n": theirs()})
    for parameter in source.parameters():
        nn.init.normal_(parameter)
    model = holding(ours(4, epsilon=1e-5, rngs=nnx.Rngs(0)))
    from_torch(source, model)
    x = torch.randn(2, 4, 5, 6)
    found = model.n(jnp.asarray(x.permute(0, 2, 3, 1).numpy()))
    expected = source["n"](x).permute(0, 2, 3, 1).detach()
    np.testing.assert_allclose(found, expected, rtol=LAYER, atol=LAYER)


def test_same_padding_with_a_stride_is_what_is_refused_for():
    """Loaded all the same, the outputs differ."""
    source = nn.Conv2d(2, 4, 3, padding=1, stride=2)
    model = nnx.Conv(2, 4, (3, 3), strides=2, padding=1, rngs=nnx.Rngs(0))
    from_torch(source, model)
    model.padding = "SAME"
    x = torch.randn(2, 2, 8, 6)
    found = model(jnp.asarray(x.permute(0, 2, 3, 1).numpy()))
    assert not np.allclose(found, source(x).permute(0, 2, 3, 1).detach(), atol=NETWORK)


def test_what_no_model_is():
    with pytest.raises(WeightsError, match=r"or its state dict .* got list"):
        from_torch([1], nnx.Linear(2, 2, rngs=nnx.Rngs(0)))
    with pytest.raises(WeightsError, match="a PyTorch model to load into, got a state dict"):
        to_torch(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), nn.Linear(2, 2).state_dict())
