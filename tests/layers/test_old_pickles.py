"""Whole-model pickles from before a layer, or an attribute of it, existed."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from groupnorm.conversion import WeightStandardization
from groupnorm.layers import (
    BatchNorm,
    BatchRenorm,
    EvoNormS0,
    FilterResponseNorm,
    GroupNorm,
    GroupNormAct,
    ScaledWSConv2d,
    SyncBatchNorm,
    WSConv1d,
    WSConv2d,
    WSConv3d,
    WSConvTranspose1d,
    WSConvTranspose2d,
    WSConvTranspose3d,
)

# PyTorch's layer, the one that takes its place, and that one built anew.
REPLACED = [
    (nn.GroupNorm(4, 16), GroupNorm, lambda: GroupNorm(4, 16)),
    (nn.GroupNorm(4, 16), GroupNormAct, lambda: GroupNormAct(4, 16)),
    *((nn.BatchNorm2d(16), kind, lambda kind=kind: kind(16))
      for kind in (BatchNorm, SyncBatchNorm, BatchRenorm)),
    *((plain(16, 8, 3), kind, lambda kind=kind: kind(16, 8, 3))
      for plain, kind in [
          (nn.Conv1d, WSConv1d), (nn.Conv2d, WSConv2d), (nn.Conv3d, WSConv3d),
          (nn.ConvTranspose1d, WSConvTranspose1d), (nn.ConvTranspose2d, WSConvTranspose2d),
          (nn.ConvTranspose3d, WSConvTranspose3d),
      ]),
]  # fmt: skip

# Layers, and those of their attributes that have a default.
ATTRIBUTES = [
    (GroupNorm(4, 16), ["activation", "backend"]),
    (GroupNormAct(4, 16), ["activation", "backend"]),
    (BatchNorm(16), ["batch_per_worker"]),
    (BatchRenorm(16), ["r_max", "d_max", "ramp_steps", "batch_per_worker"]),
    (FilterResponseNorm(16), ["apply_act"]),
    (EvoNormS0(4, 16), ["apply_act"]),
    (WSConv2d(16, 8, 3), ["ws_form", "ws_eps"]),
    (WSConvTranspose2d(16, 8, 3), ["ws_form", "ws_eps"]),
    (ScaledWSConv2d(16, 8, 3), ["activation", "ws_eps"]),
]


def data_for(layer):
    dims = layer.weight.dim() - 2 if isinstance(layer, nn.modules.conv._ConvNd) else 2
    return torch.randn(4, 16, *[5] * dims)


def same(old, new):
    assert repr(old) == repr(new)
    new.load_state_dict(old.state_dict())
    x = data_for(new)
    for training in (True, False):
        assert torch.equal(old.train(training)(x), new.train(training)(x))


@pytest.mark.parametrize(
    ("old", "kind", "anew"), REPLACED, ids=lambda v: getattr(v, "__name__", "")
)
def test_a_layer_of_pytorch_becomes_ours(old, kind, anew):
    old = copy.deepcopy(old)
    old.__class__ = kind
    same(old, anew())
    same(copy.deepcopy(old), anew())


@pytest.mark.parametrize(("layer", "names"), ATTRIBUTES, ids=lambda v: type(v).__name__)
def test_attributes_that_were_not_there(layer, names):
    old = copy.deepcopy(layer)
    for name in names:
        del old.__dict__[name]
    same(old, layer)


def test_every_attribute_has_a_default_but_the_first_ones():
    """An attribute that a layer gets from now on fails here until its class has a default."""
    first = {"num_groups", "num_channels", "num_features", "eps", "scale", "__module__"}
    for layer, names in ATTRIBUTES:
        own = {name for name in vars(layer) if not hasattr(type(layer), name)}
        bases = {name for base in (nn.GroupNorm(1, 1), nn.BatchNorm2d(1), nn.Conv2d(1, 1, 1))
                 for name in vars(base)}  # fmt: skip
        assert own - bases <= first
        assert all(hasattr(type(layer), name) for name in names)


def test_an_old_parametrization():
    conv = nn.Conv2d(4, 8, 3)
    expected = copy.deepcopy(conv)
    for one in (conv, expected):
        parametrize.register_parametrization(one, "weight", WeightStandardization())
    for name in ("form", "eps", "transposed_groups"):
        del conv.parametrizations.weight[0].__dict__[name]
    x = torch.randn(1, 4, 5, 5)
    assert torch.equal(conv(x), expected(x))
    assert repr(conv) == repr(expected)
