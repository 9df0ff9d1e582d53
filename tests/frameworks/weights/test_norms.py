"""Kinds of norms of PyTorch and of this package."""

import pytest
from torch import nn

from groupnorm.frameworks.weights.norms import (
    BATCH_NORM,
    GROUP_NORM,
    LAYER_NORM,
    RMS_NORM,
    Norm,
    norms_differ,
    torch_norm,
)
from groupnorm.layers import BatchRenorm, FrozenBatchNorm, GroupNorm, LayerNorm2d


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.GroupNorm(2, 4), Norm(GROUP_NORM, 2)),
        (GroupNorm(2, 4, activation="silu"), Norm(GROUP_NORM, 2, "silu")),
        (nn.InstanceNorm1d(4), Norm(GROUP_NORM, 4)),
        (nn.InstanceNorm2d(4, track_running_stats=True),
         Norm("instance norm with running statistics")),
        (nn.BatchNorm2d(4), Norm(BATCH_NORM)),
        (nn.SyncBatchNorm(4), Norm(BATCH_NORM)),
        (BatchRenorm(4), Norm(BATCH_NORM)),
        (nn.BatchNorm2d(4, track_running_stats=False),
         Norm("batch norm without running statistics")),
        (nn.LayerNorm(4), Norm(LAYER_NORM)),
        (LayerNorm2d(4), Norm(LAYER_NORM)),
        (nn.LayerNorm((4, 2)), Norm("LayerNorm over the last 2 axes")),
        (nn.RMSNorm(4), Norm(RMS_NORM)),
        (FrozenBatchNorm(4), None),
        (nn.Conv2d(2, 2, 1), None),
    ],
    ids=str,
)  # fmt: skip
def test_what_a_norm_computes(module, expected):
    assert torch_norm(module) == expected


class Own:
    def __init__(self, norm=None, **attributes):
        self.norm = norm
        self.__dict__ |= attributes


def differences(own, other):
    found = norms_differ([("n", own, other)], lambda module: module.norm)
    return {heading: lines for heading, lines in found.items() if lines}


def test_norms_that_differ():
    gn = nn.GroupNorm(2, 4)
    assert differences(Own(Norm(GROUP_NORM, 2)), gn) == {}
    assert differences(Own(Norm(GROUP_NORM, 4)), gn) == {"number of groups": ["n: 4, in PyTorch 2"]}
    silu = GroupNorm(2, 4, activation="silu")
    assert differences(Own(Norm(GROUP_NORM, 2, "relu")), silu) == {
        "activation of a norm": ["n: relu, in PyTorch silu"]
    }
    with pytest.warns(UserWarning, match="the activation of n is part of the norm on one side"):
        assert differences(Own(Norm(GROUP_NORM, 2, "relu")), gn) == {}
    with pytest.warns(UserWarning, match="the activation of n is part of the norm on one side"):
        assert differences(Own(Norm(GROUP_NORM, 2)), silu) == {}
    assert differences(Own(Norm(LAYER_NORM)), gn) == {
        "norms of another kind": [f"n: {LAYER_NORM}, in PyTorch group norm"]
    }


def test_of_an_unknown_class_eps_alone_is_compared():
    assert differences(Own(epsilon=1e-5), nn.GroupNorm(2, 4)) == {}
    assert differences(Own(Norm(BATCH_NORM)), FrozenBatchNorm(4)) == {}
    assert differences(Own(), nn.GroupNorm(2, 4)) == {
        "norms of PyTorch's beside what has no epsilon": ["n: Own, in PyTorch group norm"]
    }
    assert differences(Own(), nn.ReLU()) == {}
