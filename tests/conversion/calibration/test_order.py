"""Channels that move together share a group, where the network around a norm can take that up."""

import copy

import pytest
import torch
from torch import nn

import groupnorm
from groupnorm.conversion import recompute_statistics
from groupnorm.conversion.calibration.moments import LayerMoments
from groupnorm.conversion.calibration.order import (
    can_reorder,
    order_of,
    reorder_inputs,
    reorder_outputs,
)
from tests.conversion.networks import batch_norms
from tests.tolerances import FORMULA_64, LAYER


def moments(mean_x):
    var = torch.ones_like(mean_x)
    return LayerMoments(mean_x, var, mean_x, var, var)


def test_channels_that_move_together_share_a_group():
    causes = torch.randn(40, 3, dtype=torch.float64)
    mean_x = torch.cat([causes, -2 * causes, causes + 5], 1)  # 0 with 3 and 6, 1 with 4 and 7, ...
    order = order_of(moments(mean_x), 3)
    assert sorted(order.tolist()) == list(range(9))
    assert {frozenset(group.tolist()) for group in order.view(3, 3)} == {
        frozenset({0, 3, 6}), frozenset({1, 4, 7}), frozenset({2, 5, 8})
    }  # fmt: skip


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
def test_every_channel_has_a_place_whatever_does_not_move(groups):
    mean_x = torch.randn(10, 8, dtype=torch.float64)
    mean_x[:, 2:7] = 1.5
    assert sorted(order_of(moments(mean_x), groups).tolist()) == list(range(8))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)),
        (nn.ConvTranspose2d(3, 8, 2), nn.ConvTranspose2d(8, 4, 2, bias=False)),
        (nn.Conv2d(3, 8, 3, bias=False), nn.ConvTranspose2d(8, 4, 2)),
    ],
)
def test_two_layers_compute_the_same_in_another_order(first, second):
    x = torch.randn(2, 3, 7, 7, dtype=torch.float64)
    first, second = first.double(), second.double()
    order = torch.randperm(8)
    expected, between = second(first(x).relu()), first(x)
    assert can_reorder(first)
    reorder_outputs(first, order)
    reorder_inputs(second, order)
    torch.testing.assert_close(first(x), between[:, order])
    torch.testing.assert_close(second(first(x).relu()), expected, rtol=0, atol=FORMULA_64)


def paired(behind):
    """A first layer whose channels i and i + 4 move together, its norm, and what is behind."""
    conv = nn.Conv2d(4, 8, 1, bias=False)
    with torch.no_grad():
        conv.weight.zero_()
        for i in range(8):
            conv.weight[i, i % 4] = 1 + 0.2 * i
    return nn.Sequential(conv, nn.BatchNorm2d(8), *behind)


def data(n=48):
    brightness = torch.randn(n, 4, 1, 1)
    return brightness + 0.3 * torch.randn(n, 4, 6, 6)


def ready(network):
    recompute_statistics(network, [data(200)])
    return network.eval()


def error_of(network, teacher, images):
    with torch.no_grad():
        return float((network(images) - teacher(images)).square().mean())


BEHIND = {
    "convolution": lambda: [nn.ReLU(), nn.Conv2d(8, 6, 3)],
    "transposed": lambda: [nn.SiLU(), nn.MaxPool2d(2), nn.ConvTranspose2d(8, 6, 2)],
}


@pytest.mark.parametrize("kind", BEHIND)
@pytest.mark.parametrize("to", ["gn:groups=4", "gn"])
def test_a_network_keeps_more_where_its_channels_change_places(kind, to):
    network = ready(paired(BEHIND[kind]()))
    before = copy.deepcopy(network.state_dict())
    options = {"min_channels": 2, "data": data(), "refit": False}
    limits = groupnorm.conversion.FitLimits(offset_limit=0)
    plain, report = groupnorm.convert(network, to, **options, limits=limits)
    other, moved = groupnorm.convert(network, to, **options, limits=limits, reorder=True)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    fresh = data(300)
    if to != "gn":
        assert error_of(other, network, fresh) < error_of(plain, network, fresh)
        assert moved.layers[0].error < 0.6 * report.layers[0].error
        assert "Channels of 1 norm have another order than before." in moved.notes
    assert moved.output_error <= report.output_error + LAYER
    assert batch_norms(other) == []


class TwoReaders(nn.Module):
    def __init__(self, sum_too):
        super().__init__()
        self.front = paired([nn.ReLU()])
        self.a, self.b, self.sum_too = nn.Conv2d(8, 2, 1), nn.Conv2d(8, 2, 3, padding=1), sum_too

    def forward(self, x):
        z = self.front(x)
        y = self.a(z) + self.b(z)
        return y + z.sum((1,), keepdim=True) if self.sum_too else y


def shared_weights():
    network = paired([nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1)])
    network[5].weight = network[3].weight
    return network


def hooked():
    network = paired([nn.ReLU(), nn.Conv2d(8, 6, 1)])
    network[2].register_forward_hook(lambda module, args, output: None)
    return network


@pytest.mark.parametrize(
    ("network", "moved"),
    [
        (lambda: TwoReaders(False), 1),
        (lambda: TwoReaders(True), 0),
        (lambda: paired([nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8)]), 0),
        (lambda: paired([nn.ReLU(), nn.PReLU(8), nn.Conv2d(8, 8, 3)]), 0),
        (lambda: paired([nn.ReLU()]), 0),
        (lambda: paired([nn.ReLU(), nn.Flatten(), nn.Linear(288, 3)]), 0),
        (shared_weights, 0),
        (hooked, 0),
    ],
    ids=["two convolutions", "a sum too", "depthwise", "PReLU", "output", "flattened", "shared",
         "a hook"],
)  # fmt: skip
def test_channels_keep_their_places_where_something_else_takes_them(network, moved):
    network = ready(network())
    limits = groupnorm.conversion.FitLimits(offset_limit=0)
    arguments = {"min_channels": 2, "data": data(), "limits": limits, "refit": False}
    plain, _ = groupnorm.convert(network, "gn:groups=4", **arguments)
    other, report = groupnorm.convert(network, "gn:groups=4", **arguments, reorder=True)
    assert f"Channels of {moved} norm{'' if moved == 1 else 's'} have" in " ".join(report.notes)
    if moved == 0:
        for name, value in plain.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name
    else:
        fresh = data(200)
        assert error_of(other, network, fresh) < error_of(plain, network, fresh)
