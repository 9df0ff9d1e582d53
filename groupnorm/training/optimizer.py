"""The optimizer of a run: SGD, with or without weight decay on the norms' parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from groupnorm.training.config import TrainingConfig


def sgd(config: TrainingConfig, model: nn.Module) -> torch.optim.SGD:
    """SGD with momentum as `config` says, over all parameters of the model.

    With `decay_norms` false the parameters of `channel_parameters` have no weight decay.
    """
    groups: Any = model.parameters()
    if not config.decay_norms:
        without = channel_parameters(model)
        ids = set(map(id, without))
        groups = [
            {"params": [p for p in model.parameters() if id(p) not in ids]},
            {"params": without, "weight_decay": 0.0},
        ]
    return torch.optim.SGD(
        groups,
        lr=config.learning_rate,
        momentum=config.momentum,
        nesterov=config.nesterov and config.momentum > 0,
        weight_decay=config.weight_decay,
    )


def channel_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of layers that scale channels: gamma and beta of every norm.

    Such a layer is known by its `weight`, which has one dimension where a convolution's or a linear
    layer's has more. All of its own parameters of one dimension count, so that those of an
    activation that a norm brings do, and the bias of a convolution does not.
    """
    found: dict[int, nn.Parameter] = {}
    for module in model.modules():
        own = dict(module.named_parameters(recurse=False))
        if "weight" in own and own["weight"].dim() == 1:
            found.update((id(p), p) for p in own.values() if p.dim() == 1)
    return list(found.values())
