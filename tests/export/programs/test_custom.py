"""Custom operators of networks are found, and PyTorch's own are none."""

import pytest
import torch
from torch import nn

from groupnorm import GroupNorm, GroupNormAct
from groupnorm.export.errors import ExportError
from groupnorm.export.programs.custom import custom_operators, traced_custom_operators
from groupnorm.export.programs.exported import exported
from groupnorm.export.runtimes.quiet import quiet
from groupnorm.layers import WSConv2d, norm_layer
from tests.export.networks import images


@torch.library.custom_op("groupnorm_tests::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


@twice.register_fake
def _(x):
    return torch.empty_like(x)


LIBRARY = torch.library.Library("groupnorm_tests", "FRAGMENT")
LIBRARY.define("thrice(Tensor x) -> Tensor")
LIBRARY.impl("thrice", lambda x: x + x + x, "CompositeImplicitAutograd")


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def in_branch(x):
    return torch.cond(x.sum() > 0, lambda y: twice(y) + 1, lambda y: y - 1, (x,))


NETWORKS = {
    "ours": nn.Sequential(
        WSConv2d(3, 8, 3),
        GroupNorm(2, 8, activation="silu"),
        GroupNormAct(2, 8),
        norm_layer("frn")(8),
    ),
    "pytorch's": nn.Sequential(nn.Flatten(2), nn.LSTM(25, 4)),
    "attention": Function(lambda x: nn.functional.scaled_dot_product_attention(x, x, x)),
    "composite": Function(torch.ops.groupnorm_tests.thrice),
}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_pytorchs_operators_are_none(network):
    network = network.eval()
    assert custom_operators(exported(network, (images(2, 3, 5, 5),))) == []


@pytest.mark.parametrize("dynamic", [None, ({0: torch.export.Dim.AUTO},)], ids=str)
def test_a_custom_operator_is_found(dynamic):
    network = nn.Sequential(nn.Conv2d(3, 8, 3), Function(twice), Function(twice))
    program = torch.export.export(network, (images(2, 3, 5, 5),), dynamic_shapes=dynamic)
    assert custom_operators(program) == ["groupnorm_tests::twice"]
    with pytest.raises(ExportError, match=r"1 custom operator, .*: groupnorm_tests::twice\. Write"):
        exported(network, (images(2, 3, 5, 5),))


def test_also_in_a_branch():
    program = torch.export.export(Function(in_branch), (images(2, 3),))
    assert custom_operators(program) == ["groupnorm_tests::twice"]


@torch.no_grad()
def traced(network, *shape):
    with quiet():
        return torch.jit.trace(network, images(*shape), check_trace=False)


def test_in_a_traced_network():
    ours = NETWORKS["ours"].eval()
    assert traced_custom_operators(traced(ours, 2, 3, 5, 5)) == []
    network = nn.Sequential(ours, Function(twice))
    assert traced_custom_operators(traced(network, 2, 3, 5, 5)) == ["groupnorm_tests::twice"]


def test_in_a_branch_of_a_traced_network():
    def branch(x):
        if bool(x.sum() > 0):
            return torch.ops.groupnorm_tests.twice(x)
        return x

    with quiet():
        scripted = torch.jit.script(branch)
    found = traced_custom_operators(traced(Function(scripted), 2, 3))
    assert found == ["groupnorm_tests::twice"]
