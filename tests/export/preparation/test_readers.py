"""The layer that alone takes a norm's output is found by what runs."""

import pytest
import torch
from torch import nn

from groupnorm.export.preparation.readers import find_readers


class Uses(nn.Module):
    def __init__(self, use):
        super().__init__()
        self.norm, self.conv, self.other = (
            nn.GroupNorm(1, 3),
            nn.Conv2d(3, 3, 1),
            nn.Conv2d(3, 3, 1),
        )
        self.idle, self.use = nn.Identity(), use
        self.block = nn.Sequential(self.conv)

    def forward(self, x):
        return self.use(self, x)


def reader(use):
    model = Uses(use).eval()
    found = find_readers(model, [model.norm], torch.randn(1, 3, 4, 4))[model.norm]
    return {model.conv: "conv", model.other: "other"}.get(found, found)


@pytest.mark.parametrize(
    "use",
    [
        lambda m, x: m.conv(m.norm(x)),
        lambda m, x: m.conv(m.idle(m.norm(x))) + m.other(x),
        lambda m, x: m.conv(m.norm(x)) + m.conv(m.norm(x * 2)),
        lambda m, x: m.conv(input=m.norm(input=x)),
    ],
)
def test_it_is_the_convolution(use):
    assert reader(use) == "conv"


@pytest.mark.parametrize(
    ("use", "reason"),
    [
        (lambda m, x: m.conv(torch.relu(m.norm(x))), "no convolution or linear layer takes"),
        (lambda m, x: m.conv(m.norm(x).relu_()), "something else takes its output"),
        (lambda m, x: (lambda y: m.conv(y) + m.other(y))(m.norm(x)), "something else takes its"),
        (lambda m, x: (lambda y: m.conv(y) + y)(m.norm(x)), "something else takes its output"),
        (lambda m, x: (lambda y: (m.conv(y), y))(m.norm(x)), "something else takes its output"),
        (lambda m, x: (lambda y: (m.conv(y), y[0]))(m.norm(x)), "something else takes its output"),
        (lambda m, x: m.conv(m.norm(x)) + m.conv(x), "has other inputs too"),
        (lambda m, x: m.conv(m.norm(x)) * m.conv.weight.sum(), "takes the weights"),
        (lambda m, x: m.conv(x), "does not run"),
        (lambda m, x: m.norm(x), "no convolution or linear layer takes"),
    ],
)
def test_why_there_is_none(use, reason):
    assert reason in reader(use)


def test_a_convolution_that_takes_an_output_twice():
    assert "other inputs" in reader(lambda m, x: (lambda y: m.conv(y) + m.conv(y))(m.norm(x)))


def test_hooks_see_the_output():
    model = Uses(lambda m, x: m.block(m.idle(m.norm(x))))
    assert find_readers(model, [model.norm], torch.randn(1, 3, 4, 4))[model.norm] is model.conv
    for watch in (
        lambda m: m.norm.register_forward_hook(lambda *_: None),
        lambda m: m.idle.register_forward_hook(lambda *_: None),
        lambda m: m.idle.register_forward_pre_hook(lambda *_: None),
        lambda m: m.block.register_forward_pre_hook(lambda *_: None),
        lambda m: m.conv.register_forward_pre_hook(lambda *_: None),
        lambda m: m.conv.register_forward_hook(lambda *_: None),
    ):
        model = Uses(lambda m, x: m.block(m.idle(m.norm(x))))
        watch(model)
        found = find_readers(model, [model.norm], torch.randn(1, 3, 4, 4))
        assert isinstance(found[model.norm], str)
