import pytest
import torch
from torch import nn

from groupnorm.export.programs.exported import exported
from groupnorm.export.programs.graphs import calls, functional_module
from groupnorm.export.programs.xnnpack import (
    gelu_written_out,
    means_with_axes,
    pads_of_channels_joined,
    rewritten,
    spread_over_rows,
    views_of_constants,
)
from tests.export.networks import images
from tests.export.programs.rewriting import module_of
from tests.tolerances import LAYER

MULTIPLY, JOIN = torch.ops.aten.mul.Tensor, torch.ops.aten.cat.default


class _Means(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)), x.mean((-1, -2)), x.mean((2, 3), keepdim=True), x.mean(1), x.mean()


class _PerChannel(nn.Module):
    """Values for each channel, a parameter and a mean, on either side."""

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(images(channels))

    def forward(self, x):
        mean = x.mean((2, 3), keepdim=True)
        return (x - mean) * self.weight.view(1, -1, 1, 1) + mean, mean - x


class _Pads(nn.Module):
    def forward(self, x):
        both = nn.functional.pad(x, (0, 0, 0, 0, 2, 1))
        return both, nn.functional.pad(x, (0, 0, 0, 0, 0, 3), value=-1.5)


class _OtherPads(nn.Module):
    def forward(self, x):
        padded = nn.functional.pad(x, (1, 1, 0, 0)), nn.functional.pad(x, (0, 0, 0, 0, -1, 2))
        return *padded, nn.functional.pad(x, (1, 1, 1, 1), mode="reflect")


def targets(program):
    return [node.target for node in program.graph.nodes if node.op == "call_function"]


def same(found, expected):
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0, equal_nan=True)


def test_a_network_without_anything_to_rewrite_is_left_alone():
    assert rewritten(exported(nn.ReLU(), (images(2, 3),))) is None


@pytest.mark.parametrize("dynamic", [(), ((0, 2, 3),)], ids=["static", "dynamic"])
def test_means_over_positions_keep_their_axes(dynamic):
    x = images(2, 4, 10, 12)
    program = means_with_axes(exported(_Means(), (x,), dynamic))
    means = [n for n in program.graph.nodes if n.target is torch.ops.aten.mean.dim]
    assert [n.args[2:] for n in means] == [(True,), (True,), (True,), ()]
    for mine, expected in zip(program.module()(x), _Means()(x), strict=True):
        torch.testing.assert_close(mine, expected, rtol=0, atol=LAYER)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_by_tanh_is_written_out(approximate, dtype):
    x = (4 * images(2, 16)).to(dtype)
    program = gelu_written_out(exported(nn.GELU(approximate), (x,)))
    assert (torch.ops.aten.gelu.default in targets(program)) == (approximate == "none")
    found, expected = program.module()(x), nn.GELU(approximate)(x)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=torch.finfo(dtype).eps, atol=LAYER)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("dynamic", [(), ((0,),)], ids=["static", "dynamic"])
def test_values_of_channels_are_spread_over_rows(dynamic, dtype):
    network, x = _PerChannel(4).to(dtype), images(2, 4, 32, 24).to(dtype)
    x[0, 1, 2, 3], x[1, 2, 0, 0] = float("inf"), float("nan")
    before = len(calls(functional_module(exported(network, (x,), dynamic)), [MULTIPLY]))
    module, found = module_of(network, x, spread_over_rows, dynamic)
    assert found
    # One more for the mean and one for the view of the parameter, however often they are used.
    assert len(calls(module, [MULTIPLY])) == before + 2
    for other in (x, images(3, 4, 32, 24).to(dtype)) if dynamic else (x,):
        same(module(other), network(other))


@pytest.mark.parametrize(
    ("shape", "dynamic"),
    [((1, 4, 16, 16), ()), ((1, 256, 32, 32), ()), ((2, 4, 32, 32), ((2, 3),))],
    ids=["small", "long rows", "dynamic"],
)
def test_others_are_not_spread(shape, dynamic):
    x = images(*shape)
    assert not module_of(_PerChannel(shape[1]), x, spread_over_rows, dynamic)[1]


@pytest.mark.parametrize("dynamic", [(), ((0, 2, 3),)], ids=["static", "dynamic"])
def test_views_of_parameters_are_made_ahead(dynamic):
    network, x = _PerChannel(4), images(2, 4, 5, 6)
    module, found = module_of(network, x, views_of_constants, dynamic)
    assert found
    assert not calls(module, [torch.ops.aten.view.default])
    same(module(x), network(x))


def test_channels_are_joined_in_the_place_of_padding():
    x = images(2, 4, 5, 6)
    x[0, 0, 0, 0], x[1, 3, 2, 2] = float("inf"), float("nan")
    module, found = module_of(_Pads(), x, pads_of_channels_joined)
    assert found
    assert len(calls(module, [JOIN])) == 2
    same(module(x), _Pads()(x))


def test_other_padding_is_left_alone():
    x = images(2, 4, 5, 6)
    module, found = module_of(_OtherPads(), x, pads_of_channels_joined)
    assert not found
    same(module(x), _OtherPads()(x))
