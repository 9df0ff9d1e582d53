"""What the norms of a network get."""

import math

import pytest
import torch
from torch import nn

from groupnorm.export.forms import BlockedGroupNorm, PooledGroupNorm
from groupnorm.export.gate.norm_inputs import NormRecorder, normalized, ratios
from tests.export.networks import form_norm, images
from tests.tolerances import DOUBLE, LAYER


def recorded(network, *runs):
    recorder = NormRecorder(network)
    for x in runs:
        with recorder.run(), torch.no_grad():
            network(x)
    return recorder.recorded


def test_the_usual_input_is_the_examples_and_the_worst_the_farthest_from_zero():
    network = nn.Sequential(form_norm(), form_norm())
    runs = [images(2, 16, 8, 8, seed=o) + o for o in (3, 1000, 10)]
    met = recorded(network, *runs)
    assert list(met) == ["0", "1"]
    assert torch.equal(met["0"].usual[1], runs[0])
    assert torch.equal(met["0"].worst[1], runs[1])
    assert met["0"].ratio == float(ratios(runs[1], network[0]).max()) > 900


def test_values_that_are_not_finite_are_no_inputs():
    x = images(2, 16, 8, 8)
    met = recorded(nn.Sequential(form_norm()), x * math.inf, x, x * math.nan)["0"]
    assert met.usual is None
    assert torch.equal(met.worst[1], x)


class ByKeyword(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = form_norm()

    def forward(self, x):
        return self.norm(input=x, residual=2 * x)


def test_norms_that_are_called_by_keyword():
    x = images(2, 16, 8, 8)
    assert torch.equal(recorded(ByKeyword(), x)["norm"].usual[1], x)


class Pyramid(nn.Module):
    """One norm for maps of two sizes, as a detector's head has."""

    def __init__(self):
        super().__init__()
        self.norm = form_norm()

    def forward(self, x):
        return self.norm(x), self.norm(100 + x[..., ::2, ::2])


def test_a_norm_that_runs_several_times_is_met_in_each():
    met = recorded(Pyramid(), images(1, 16, 8, 8), images(2, 16, 8, 12))["norm"]
    assert met.shapes == [
        [(1, 16, 8, 8), (1, 16, 4, 4)], [(2, 16, 8, 12), (2, 16, 4, 6)],
    ]  # fmt: skip
    assert met.usual[0] == 0
    assert met.worst[0] == 1
    assert met.changing(0) == met.changing(1) == (0, 3)
    assert recorded(Pyramid(), images(1, 16, 8, 8))["norm"].changing(1) == ()


def test_equal_values_count_with_eps():
    x = torch.full((1, 16, 4, 4), 2.0)
    found = ratios(x, form_norm())
    assert found[0].tolist() == pytest.approx([2 / math.sqrt(1e-5)] * 4, rel=LAYER)


def test_each_group_has_its_eps():
    own = PooledGroupNorm(2, 4, group_eps=torch.tensor([1.0, 4.0]))
    found = ratios(torch.ones(1, 4, 2, 2), own)
    assert found[0].tolist() == pytest.approx([1.0, 0.5], rel=LAYER)


@pytest.mark.parametrize("form", [PooledGroupNorm, BlockedGroupNorm])
@pytest.mark.parametrize("shape", [(3, 4), (2, 4, 6), (2, 4, 3, 5), (2, 4, 3, 2, 2)])
def test_normalized_values_are_those_of_the_definition(form, shape):
    own = form(2, 4, group_eps=torch.tensor([1e-5, 1e-3]))
    x = images(*shape).double() + 5
    grouped = x.reshape(shape[0], 2, -1)
    var, mean = torch.var_mean(grouped, 2, correction=0, keepdim=True)
    eps = torch.tensor(own.eps_of_groups).double().view(1, 2, 1)
    expected = ((grouped - mean) / (var + eps).sqrt()).reshape(shape)
    torch.testing.assert_close(normalized(x, own), expected, rtol=DOUBLE, atol=DOUBLE)
