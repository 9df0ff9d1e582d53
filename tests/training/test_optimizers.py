"""The optimizer of a configuration against the update rules written out."""

import torch
from torch import nn

from groupnorm.training.config import RunConfig
from groupnorm.training.optimizers import build_optimizer


def updates(gradients, start=0.5, **fields):
    config = RunConfig(workers=1, batch_per_worker=32, epochs=1, **fields)
    parameter = nn.Parameter(torch.tensor([start], dtype=torch.float64))
    optimizer = build_optimizer(config, [parameter])
    values = []
    for gradient in gradients:
        parameter.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        values.append(parameter.item())
    return values, config.learning_rate


def test_sgd():
    """v = 0.9 v + g;  w -= lr (g + 0.9 v) with Nesterov's momentum, lr v without."""
    for nesterov in (True, False):
        values, lr = updates([1.0, -2.0], nesterov=nesterov, weight_decay=0.1, base_lr=0.8)
        assert lr == 0.1
        w, v = 0.5, 0.0
        for gradient, value in zip([1.0, -2.0], values, strict=True):
            g = gradient + 0.1 * w
            v = 0.9 * v + g
            w -= lr * (g + 0.9 * v if nesterov else v)
            assert abs(value - w) < 1e-12


def test_no_momentum():
    values, lr = updates([1.0], momentum=0.0, weight_decay=0.0)
    assert abs(values[0] - (0.5 - lr)) < 1e-12


def test_adam():
    """The first step of Adam is lr * sign(g), whatever the size of g."""
    values, lr = updates([1e-3], optimizer="adam", weight_decay=0.0)
    assert abs(values[0] - (0.5 - lr)) < 1e-6
