"""One step's gradients: in passes, over processes, with the running statistics of all workers."""

from __future__ import annotations

import contextlib
import functools
import math
import operator
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from groupnorm.training.distributed import Processes
from groupnorm.training.task import EpochTotals, Part

Losses = Callable[[nn.Module, Part], tuple[Mapping[str, Tensor], Mapping[str, int]]]
"""`Task.losses`."""


def accumulate_gradients(
    model: nn.Module,
    parts: Sequence[Part],
    losses: Losses,
    *,
    device: torch.device,
    processes: Processes,
    totals: EpochTotals,
) -> float:
    """Forward and backward of a step; leaves the gradient of the mean loss in the parameters.

    The parts go through the model one after the other. The running statistics of batch norms move
    once, towards the mean over all parts and processes, as if every worker's images had been in one
    batch (`groupnorm.layers.BatchNorm`).

    Args:
        model: network, or `DistributedDataParallel` of one.
        parts: what this process has of the step, in parts of equal size.
        losses: the named losses of a part, whose sum is minimized, and what is counted in it.
        device: of the model.
        totals: gets the step's sums over all processes, and this process's times.

    Returns:
        The mean loss over all processes' examples. It may be NaN or infinite.
    """
    passes = len(parts)
    statistics = running_statistics(model)
    buffers = [*statistics, *_counters(model)] if passes > 1 else []
    before = [value.clone() for value in buffers]
    sums = [torch.zeros_like(value) for value in statistics] if passes > 1 else []
    loss_sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for number, part in enumerate(parts):
        for value, old in zip(buffers, before, strict=True):
            value.copy_(old)
        last = number == passes - 1
        together = isinstance(model, DistributedDataParallel) and not last
        with model.no_sync() if together else contextlib.nullcontext():  # type: ignore[operator]
            started = time.perf_counter()
            named, counted = losses(model, part)
            means = {name: loss.item() for name, loss in named.items()}  # waits for the device
            forward = time.perf_counter()
            loss: Tensor = functools.reduce(operator.add, named.values())
            (loss / passes).backward()  # type: ignore[no-untyped-call]
            _wait_for(device)
        totals.forward_seconds += forward - started
        totals.backward_seconds += time.perf_counter() - forward
        _add(loss_sums, {name: mean * part.examples for name, mean in means.items()})
        _add(counts, counted)
        for sum_, value in zip(sums, statistics, strict=False):
            sum_.add_(value)
    for sum_, value in zip(sums, statistics, strict=False):
        value.copy_(sum_ / passes)
    processes.all_reduce_mean(statistics)
    examples = sum(part.examples for part in parts)
    seen, *reduced = processes.all_reduce_sum(
        (examples, *loss_sums.values(), *counts.values()), device
    )
    loss_sums = dict(zip(loss_sums, reduced, strict=False))
    total = sum(loss_sums.values())
    if math.isfinite(total):
        _add(totals.losses, loss_sums)
    _add(totals.counts, dict(zip(counts, map(int, reduced[len(loss_sums) :]), strict=True)))
    totals.examples += int(seen)
    return total / seen


def _add(totals: dict[str, Any], more: Mapping[str, Any]) -> None:
    for name, value in more.items():
        totals[name] = totals.get(name, 0) + value


def running_statistics(model: nn.Module) -> list[Tensor]:
    """Running means and variances of the model's batch norms, in a fixed order."""
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
    statistics = [value for layer in layers for value in (layer.running_mean, layer.running_var)]
    return [value for value in statistics if value is not None]


def _counters(model: nn.Module) -> list[Tensor]:
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
    return [n for layer in layers if (n := layer.num_batches_tracked) is not None]


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
