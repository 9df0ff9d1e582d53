"""The norms' share of the time, on a clock that only the layers of these tests move."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from groupnorm.cost import timing
from groupnorm.cost.timing import NormTimes

FORWARD, BACKWARD = 3.0, 5.0
CLOCK = SimpleNamespace(seconds=0.0)


@pytest.fixture(autouse=True)
def _clock(monkeypatch):
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: CLOCK.seconds))


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
    assert found == {key: pytest.approx(1 / 3) for key in found}
    assert set(found) == {"norm_share", "norm_share_forward", "norm_share_backward"}
    two_of_two = shares(nn.Sequential(SlowNorm(4), SlowNorm(4)), torch.randn(2, 4))
    assert set(two_of_two.values()) == {1.0}


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
    assert found["norm_share_backward"] == pytest.approx(0.5)
