"""Models timed in turns and the norms' share, on a clock that only the models move."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from groupnorm.cost import timing
from groupnorm.cost.timing import NormTimes, Step, time_in_turns
from tests.tolerances import TIMED, TIMED_ZERO

FORWARD, BACKWARD = 3.0, 5.0
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


class Wait(torch.autograd.Function):
    """The identity, which takes its time."""

    @staticmethod
    def forward(ctx, x, forward, backward):
        ctx.backward_seconds = backward
        CLOCK.seconds += forward
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        CLOCK.seconds += ctx.backward_seconds
        return grad, None, None


class Slow(nn.Module):
    def forward(self, x):
        return Wait.apply(x, FORWARD, BACKWARD)


class SlowNorm(nn.LayerNorm):
    """Two slow operations with a cheap one between them."""

    def forward(self, x):
        x = Wait.apply(x, FORWARD / 2, BACKWARD / 2)
        return Wait.apply(super().forward(x), FORWARD / 2, BACKWARD / 2)


def shares(model, images):
    with NormTimes(model, images.device) as times:
        with times.forward():
            loss = model(images).sum()
        with times.backward():
            loss.backward()
    return times.shares()


def test_the_share_is_the_norms_time_over_all():
    one_of_three = nn.Sequential(nn.Linear(4, 4), Slow(), SlowNorm(4), Slow())
    found = shares(one_of_three, torch.randn(2, 4))
    assert found == {key: pytest.approx(1 / 3, rel=TIMED) for key in found}
    assert set(found) == {"norm_share", "norm_share_forward", "norm_share_backward"}
    two_of_two = shares(nn.Sequential(SlowNorm(4), SlowNorm(4)), torch.randn(2, 4))
    assert two_of_two == {key: pytest.approx(1.0, rel=TIMED) for key in two_of_two}


def test_no_norm_has_no_share_and_nothing_stays():
    model = nn.Sequential(nn.Linear(4, 4), Slow())
    assert set(shares(model, torch.randn(2, 4)).values()) == {0.0}
    norm = SlowNorm(4)
    shares(norm, torch.randn(2, 4, requires_grad=True))
    assert not norm._forward_hooks
    assert not norm._forward_pre_hooks


def test_an_input_used_twice_and_changed_in_place():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.before, self.norm = nn.Linear(4, 4), SlowNorm(4)
            self.slow = Slow()

        def forward(self, x):
            x = self.before(x)
            return self.norm(x).relu_() + self.slow(x)

    found = shares(Block(), torch.randn(2, 4))
    assert found["norm_share_backward"] == pytest.approx(0.5, rel=TIMED)
