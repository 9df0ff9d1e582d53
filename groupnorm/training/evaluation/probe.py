"""The responses of one convolution after every epoch, as in Wu & He 2018, Figure 6."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from groupnorm.training.task import Metrics

PERCENTILES = (1, 20, 80, 99)


def probe_module(name: str, model: nn.Module) -> nn.Module | None:
    """The convolution whose responses a run of the model called `name` records, or None.

    That is conv5_3 of vgg16, the last 3x3 convolution, before its normalization; no other model
    has one.
    """
    if name != "vgg16":
        return None
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)][-1]


@contextmanager
def recorded_responses(module: nn.Module | None) -> Iterator[Metrics]:
    """Metrics that are filled when `module` first runs inside the block; empty without a module.

    `response_percentiles` are the `percentiles` of its output.
    """
    found: Metrics = {}
    if module is None:
        yield found
        return

    def record(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not found:
            found["response_percentiles"] = percentiles(output)

    handle = module.register_forward_hook(record)
    try:
        yield found
    finally:
        handle.remove()


def percentiles(values: Tensor) -> dict[str, float] | None:
    """{"1": ..., "20": ..., "80": ..., "99": ...} of all elements of a tensor of any shape.

    Interpolated linearly between neighbours. None when a value is not finite, or there is none.
    """
    ordered = values.detach().float().flatten().sort().values  # torch.quantile stops at 2**24
    count = len(ordered)
    if not count or not torch.isfinite(ordered[[0, -1]]).all():
        return None
    found = {}
    for percent in PERCENTILES:
        low, part = divmod(percent * (count - 1), 100)
        ends = ordered[low : low + 2].double().tolist()
        found[str(percent)] = ends[0] + part / 100 * (ends[-1] - ends[0])
    return found
