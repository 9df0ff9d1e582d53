"""time_in_turns: who is timed when, and what is made of the times; on a clock that models move."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from groupnorm.cost import timing
from groupnorm.cost.timing import Step, time_in_turns
from tests.tolerances import TIMED, TIMED_ZERO

CLOCK = SimpleNamespace(seconds=0.0)


class Timed(nn.Module):
    """A model whose forward pass takes the next of some given seconds."""

    def __init__(self, name, seconds, calls):
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.name, self.seconds, self.calls = name, itertools.cycle(seconds), calls

    def forward(self, images):
        self.calls.append(self.name)
        CLOCK.seconds += next(self.seconds)
        return self.layer(images)


class BatchNorm(nn.BatchNorm1d):
    """Takes a second."""

    def forward(self, images):
        CLOCK.seconds += 1.0
        return super().forward(images)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    def look():
        CLOCK.seconds += 1e-6
        return CLOCK.seconds

    fake = SimpleNamespace(perf_counter=look)
    monkeypatch.setattr(timing, "time", fake)


def test_in_every_round_every_model_is_timed_once_and_the_order_turns():
    calls = []
    steps = {name: Step(Timed(name, [1.0], calls), torch.ones(2, 4)) for name in "abc"}
    rounds, found = time_in_turns(steps, seconds=0.0)
    assert rounds == 5
    assert "".join(calls) == "abc" * 4 + "abccbaabccbaabc"
    assert list(found) == ["a", "b", "c"]
    assert found["a"]["images"] == 2
    assert found["a"]["forward_ms_per_image"] == pytest.approx(500.0, rel=TIMED)
    assert found["a"]["backward_ms_per_image"] == pytest.approx(0.0, abs=TIMED_ZERO)
    assert (found["a"]["spread"], found["a"]["norm_share"]) == (pytest.approx(0.0, abs=TIMED), 0.0)


def test_a_slow_round_does_not_move_the_median_and_the_rounds_are_bounded():
    """Other work in one round of many; and no more rounds than 12 however fast they are."""
    warm = [0.1] * 4
    steps = {
        "a": Step(Timed("a", [*warm, 9.0, *[0.1] * 11], []), torch.ones(1, 4)),
        "b": Step(Timed("b", [*warm, 9.0, *[0.2] * 11], []), torch.ones(1, 4)),
    }
    rounds, found = time_in_turns(steps, seconds=1000.0)
    assert rounds == 12
    assert found["a"]["forward_ms_per_image"] == pytest.approx(100.0, rel=TIMED)
    assert found["b"]["forward_ms_per_image"] == pytest.approx(200.0, rel=TIMED)
    assert found["b"]["spread"] == pytest.approx(0.0, abs=TIMED)


def test_norms_have_a_share_and_generators_stay_as_they_were():
    model = nn.Sequential(Timed("linear", [3.0], []), BatchNorm(2), nn.Dropout())
    state = torch.get_rng_state()
    _, found = time_in_turns({"bn": Step(model, torch.ones(8, 4))}, seconds=0.0)
    assert found["bn"]["forward_ms_per_image"] == pytest.approx(500.0, rel=TIMED)
    assert found["bn"]["norm_share"] == pytest.approx(0.25, rel=TIMED)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())
