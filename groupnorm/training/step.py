"""One step's gradients: in passes, over processes, with the running statistics of all workers."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from groupnorm.training.distributed import Processes

Loss = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, int]]


@dataclass
class EpochTotals:
    """Sums over the steps of an epoch; times in seconds, of this process."""

    loss: float = 0.0
    wrong: int = 0
    images: int = 0
    data_seconds: float = 0.0
    forward_seconds: float = 0.0
    backward_seconds: float = 0.0


def accumulate_gradients(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    loss: Loss,
    *,
    passes: int,
    processes: Processes,
    totals: EpochTotals,
) -> float:
    """Forward and backward of a step; leaves the gradient of the mean loss in the parameters.

    The images of this process go through the model in `passes` equal parts. The running statistics
    of batch norms move once, towards the mean over all parts and processes, as if every worker's
    images had been in one batch (`groupnorm.layers.BatchNorm`).

    Args:
        model: network, or `DistributedDataParallel` of one.
        images: (n, C, H, W) of this process, n a multiple of `passes`.
        labels: (n,).
        loss: gives the mean loss of a batch, and how many of it were wrong.
        totals: gets the step's sums over all processes, and this process's times.

    Returns:
        The mean loss over all processes' images. It may be NaN or infinite.
    """
    device = images.device
    statistics = running_statistics(model)
    buffers = [*statistics, *_counters(model)] if passes > 1 else []
    before = [value.clone() for value in buffers]
    sums = [torch.zeros_like(value) for value in statistics] if passes > 1 else []
    total, wrong = 0.0, 0
    for number, (part, part_labels) in enumerate(
        zip(images.chunk(passes), labels.chunk(passes), strict=True)
    ):
        for value, old in zip(buffers, before, strict=True):
            value.copy_(old)
        last = number == passes - 1
        together = isinstance(model, DistributedDataParallel) and not last
        with model.no_sync() if together else contextlib.nullcontext():  # type: ignore[operator]
            started = time.perf_counter()
            mean, part_wrong = loss(model, part, part_labels)
            value_of_mean = mean.item()  # waits for the device
            forward = time.perf_counter()
            (mean / passes).backward()  # type: ignore[no-untyped-call]
            _wait_for(device)
        totals.forward_seconds += forward - started
        totals.backward_seconds += time.perf_counter() - forward
        total += value_of_mean * len(part)
        wrong += part_wrong
        for sum_, value in zip(sums, statistics, strict=False):
            sum_.add_(value)
    for sum_, value in zip(sums, statistics, strict=False):
        value.copy_(sum_ / passes)
    processes.all_reduce_mean(statistics)
    total, all_wrong, seen = processes.all_reduce_sum((total, wrong, len(images)), device)
    if math.isfinite(total):
        totals.loss += total
    totals.wrong += int(all_wrong)
    totals.images += int(seen)
    return total / seen


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
