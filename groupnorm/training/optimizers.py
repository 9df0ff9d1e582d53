"""The optimizer of a configuration."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from groupnorm.training.config import RunConfig


def build_optimizer(config: RunConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """SGD with momentum, or Adam; weight decay on every parameter, added to its gradient.

    The learning rate is `config.learning_rate`, which the loop multiplies by the schedule's factor.
    """
    lr, decay = config.learning_rate, config.weight_decay
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=lr, weight_decay=decay)
    return torch.optim.SGD(
        parameters,
        lr=lr,
        momentum=config.momentum,
        nesterov=config.nesterov and config.momentum > 0,
        weight_decay=decay,
    )
