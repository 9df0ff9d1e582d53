"""Between two convolutions there is one activation, whatever the norm: none twice, none missing."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from groupnorm.layers import norm_layer
from groupnorm.models import build_model
from groupnorm.models.classification.resnet_imagenet import Bottleneck
from groupnorm.models.classification.vgg import vgg16_features
from groupnorm.spec import KINDS

# What the activations of the models come down to: ReLU, the TLU's max, EvoNorm's sigmoid.
SEEN_AS = {"relu": "relu", "relu_": "relu", "maximum": "tlu", "sigmoid": "evonorm"}

# What follows a convolution within a block; ReLU for every other norm.
INNER = {"frn": "tlu", "evonorm_s0": "evonorm"}


class Recorder(TorchDispatchMode):
    """The convolutions and activations that run, in order."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name == "convolution":
            self.steps.append("conv")
        elif name in SEEN_AS:
            self.steps.append(SEEN_AS[name])
        return function(*args, **(kwargs or {}))


def recorded(model, x):
    with Recorder() as recorder, torch.no_grad():
        model(x)
    return recorder.steps


def steps(norm, shortcut="A"):
    model = build_model("resnet8", norm=norm, num_classes=3, width=0.5, shortcut=shortcut)
    return recorded(model, torch.randn(4, 3, 8, 8))


def expected(inner, transition):
    """Stem, then three blocks, the last two with what the shortcut adds."""
    block = ["conv", inner, "conv"]
    return ["conv", inner, *block, "relu", *2 * [*block, *transition, "relu"]]


@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize("suffix", ["", "+ws"])
@pytest.mark.parametrize("kind", KINDS)
def test_one_activation_after_every_convolution(kind, suffix, shortcut):
    inner = INNER.get(kind, "relu")
    transition = ["conv"] if shortcut == "B" else []
    assert steps(kind + suffix, shortcut) == expected(inner, transition)


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_normalizer_free_networks_activate_before_every_convolution(shortcut):
    block = ["relu", "conv", "relu", "conv"]
    last = [*block, *(["conv"] if shortcut == "B" else [])]
    assert steps("none+nf", shortcut) == ["conv", *block, *last, *last, "relu"]


def test_a_fused_activation_takes_the_place_of_relu():
    fused = steps(norm_layer("gn:groups=4", activation="hardswish"))
    assert fused == [step for step in expected("fused", []) if step != "fused"]


@pytest.mark.parametrize("suffix", ["", "+ws"])
@pytest.mark.parametrize("kind", KINDS)
def test_imagenet_resnets(kind, suffix):
    """Four stages of two basic blocks, the first of the last three with a projection."""
    inner = INNER.get(kind, "relu")
    block = ["conv", inner, "conv"]
    stage = [*block, "conv", "relu", *block, "relu"]
    model = build_model("resnet18", norm=kind + suffix, num_classes=3)
    found = recorded(model, torch.randn(2, 3, 64, 64))
    assert found == ["conv", inner, *2 * [*block, "relu"], *3 * stage]


@pytest.mark.parametrize("suffix", ["", "+ws"])
@pytest.mark.parametrize("kind", KINDS)
def test_bottlenecks(kind, suffix):
    inner = INNER.get(kind, "relu")
    block = ["conv", inner, "conv", inner, "conv"]
    plain = Bottleneck(32, 8, norm_layer=kind + suffix)
    assert recorded(plain, torch.randn(2, 32, 8, 8)) == [*block, "relu"]
    projection = Bottleneck(8, 8, 2, torch.nn.Identity(), norm_layer=kind + suffix)
    assert recorded(projection, torch.randn(2, 8, 8, 8)) == [*block, "conv", "relu"]


@pytest.mark.parametrize("suffix", ["", "+ws"])
@pytest.mark.parametrize("kind", KINDS)
def test_vgg(kind, suffix):
    features = vgg16_features(kind + suffix)
    found = recorded(features, torch.randn(2, 3, 32, 32))
    assert found == 13 * ["conv", INNER.get(kind, "relu")]


def test_a_fused_activation_takes_the_place_of_relu_in_the_large_networks():
    norm = norm_layer("gn:groups=4", activation="hardswish")
    assert recorded(vgg16_features(norm), torch.randn(2, 3, 64, 64)) == 13 * ["conv"]
    found = recorded(Bottleneck(32, 8, norm_layer=norm), torch.randn(2, 32, 8, 8))
    assert found == ["conv", "conv", "conv", "relu"]


def test_the_check_can_fail():
    """A norm that brings its activation, followed by ReLU all the same."""
    model = build_model("resnet8", norm="frn", num_classes=3, width=0.5)
    model.act1 = torch.nn.ReLU()
    with Recorder() as recorder, torch.no_grad():
        model(torch.randn(4, 3, 8, 8))
    assert recorder.steps != expected("tlu", [])
