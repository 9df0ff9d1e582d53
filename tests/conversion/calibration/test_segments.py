"""Both ways through a network give the same, wherever values wait."""

import weakref

import pytest
import torch
from torch import nn

import groupnorm
from groupnorm.conversion.calibration import network as fitted_network
from groupnorm.conversion.calibration import walks
from groupnorm.conversion.calibration.fit import FitLimits
from groupnorm.conversion.calibration.states import States
from groupnorm.conversion.calibration.tape import Untraceable
from tests.conversion.networks import UNet, small_network, train_statistics
from tests.tolerances import HALF_STATES, NETWORK

DATA = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def convert(model, data=DATA, **arguments):
    return groupnorm.convert(
        model, "gn:groups=2", data=data, limits=FitLimits(steps=3), **arguments
    )


def difference(one, other):
    states = one.state_dict(), other.state_dict()
    assert list(states[0]) == list(states[1])
    pairs = zip(*(state.values() for state in states), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


@pytest.mark.parametrize("make", [small_network, lambda: train_statistics(UNet(width=4))])
def test_running_from_the_beginning_gives_the_same(make, monkeypatch):
    model = make()
    pieces, report = convert(model)
    assert report.notes == []

    def refuse(*args):
        raise Untraceable("of a test")

    monkeypatch.setattr(walks, "Segments", refuse)
    sweeps, other = convert(model)
    assert other.notes == [
        "The network ran from its beginning for each norm, which is slow: of a test."
    ]
    assert [row.name for row in other.layers] == [row.name for row in report.layers]
    assert difference(pieces, sweeps) < NETWORK


def test_values_in_files_and_in_half_precision(monkeypatch):
    model = small_network()
    expected, report = convert(model)
    monkeypatch.setattr(fitted_network, "States", lambda: States(600_000))
    half, halved = convert(model)
    assert halved.notes == [
        "Values between the layers were held in float16, for float32 did not fit."
    ]
    monkeypatch.setattr(fitted_network, "States", lambda: States(0))
    files, written = convert(model)
    assert written.notes[1] == "Up to 1 MB of values between the layers were held in files."
    for found, of in ((half, halved), (files, written)):
        assert 0 < difference(expected, found) < 0.05
        for one, other in zip(report.layers, of.layers, strict=True):
            assert one.error == pytest.approx(other.error, rel=HALF_STATES)


def test_a_few_batches_at_a_time_lie_where_the_network_runs():
    refs, most = [], 0

    def forward(network, batch):
        nonlocal most
        refs.append(weakref.ref(batch))
        most = max(most, sum(ref() is not None for ref in refs))
        return network(batch)

    assert convert(small_network(), DATA.split(4), forward=forward)[1].notes == []
    assert most <= 3


class Branches(nn.Module):
    """Convolutions that run long before their norms, and a norm that is called by keyword."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(3, 8, 1, bias=False) for _ in range(3)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(8) for _ in range(3)])

    def forward(self, x):
        a, b, c = (conv(x) for conv in self.convs)
        c = self.norms[2](input=c)
        return torch.cat([self.norms[1](b), self.norms[0](a), c], 1).relu().mean((2, 3))


def test_norms_in_another_order_than_their_convolutions():
    model = train_statistics(Branches())
    _, report = convert(model)
    assert report.notes == []
    fronts = {row.name: row.in_front for row in report.layers}
    assert fronts["norms.0"] == "convs.0"
    assert fronts["norms.1"] == "convs.1"
    assert fronts["norms.2"] in ("convs.2", "itself")
    for row in report.layers:
        between = f"another norm runs between it and convs.{row.name[-1]}"
        assert (between in row.note) == (row.in_front == "itself")
    assert max(row.error for row in report.layers) < 0.5
    assert report.output_error < 0.5


def test_a_norm_that_does_not_run_is_left_to_its_statistics():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = small_network()
            self.spare = nn.BatchNorm2d(16)

        def forward(self, x):
            return self.body(x)

    converted, report = convert(train_statistics(Unused()))
    assert report.notes == [
        "1 norm did not run on the data, or on too few batches: spare. Converted as without data."
    ]
    row = next(row for row in report.layers if row.name == "spare")
    assert row.error is None
    assert isinstance(converted.spare, nn.GroupNorm)
    fresh = train_statistics(Unused()).spare
    assert not torch.equal(converted.spare.weight, fresh.weight)


class Normalizing(nn.Module):
    """A network that normalizes its images itself, by tensors that it makes as it runs."""

    def __init__(self):
        super().__init__()
        self.body = small_network()

    def forward(self, x):
        mean = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
        return self.body((x - mean) / torch.tensor([0.9, 1.0, 1.1]).view(1, 3, 1, 1))


def test_constants_that_a_network_makes_as_it_runs():
    model = Normalizing()
    _, report = convert(model)
    assert report.notes == []
    assert report.output_error < 0.5


class InPlaceBetween(nn.Module):
    """An operation in place between a convolution and its norm, on what is used later."""

    def __init__(self):
        super().__init__()
        self.conv, self.other = nn.Conv2d(3, 16, 1), nn.Conv2d(3, 16, 1)
        self.drop, self.norm = nn.Dropout(0.1), nn.BatchNorm2d(16)

    def forward(self, x):
        z = self.other(x)
        h = self.drop(self.conv(x))
        z.add_(1.0)
        return torch.relu(self.norm(h)) + z


def test_an_operation_in_place_between_a_convolution_and_its_norm_runs_once():
    model = train_statistics(InPlaceBetween()).eval()
    converted, report = convert(model)
    assert report.notes == []
    assert report.layers[0].in_front == "conv"
    held = torch.cat([part for i, part in enumerate(DATA.split(5)) if i % 4 == 2])
    with torch.no_grad():
        found, expected = converted(held), model(held)
    spread = expected - expected.mean((0, 2, 3), keepdim=True)
    error = float((found - expected).square().sum() / spread.square().sum())
    assert report.output_error == pytest.approx(error, rel=1e-3)
