"""Batch normalization with statistics per worker, and over all workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules._functions import SyncBatchNorm as torchs_sync_batch_norm  # noqa: N813
from torch.nn.modules.batchnorm import _BatchNorm

from groupnorm.layers.base import FxLeaf
from groupnorm.ops.batch_norm import Running, chunked_batch_norm, move_running, ragged_batch_norm
from groupnorm.ops.group_norm.memory import shape_of
from groupnorm.ops.sync_batch_norm import synchronized_batch_norm

_ROWS: list[tuple[int, ...]] = []
"""Of the contexts that are open, the innermost last: a list, for torch.compile checks what it holds
before it runs a compiled layer again, which it does not for a ContextVar or a thread's own data."""


@contextmanager
def rows_per_worker(rows: Sequence[int]) -> Iterator[None]:
    """Within this context batch norms divide their input by `rows`, not by `batch_per_worker`.

    For the heads of detectors, whose norms get regions: how many of them belong to a worker's
    images differs from worker to worker and from step to step, and may be 0. The caller of the
    head knows the numbers::

        with rows_per_worker([12, 0, 9]):
            x = head(x)  # (21, C, H, W)

    It is a context and no argument of forward because a head is an `nn.Sequential`, whose
    convolutions and activations take one argument. It holds for every `BatchNorm` and
    `BatchRenorm` that runs in training inside of it, in any thread, and ends with the block.

    A worker without rows is what its process would be under DistributedDataParallel: it has no
    statistics, and its running ones stay. The running statistics, which are the mean over all W
    workers, then move by the share of the workers that have rows: towards the mean over these,
    with `momentum` times their number over W. Where no worker has rows they stay.

    `SyncBatchNorm` takes its statistics over the rows of all workers, whatever their numbers.

    Args:
        rows: of each worker, in the order of the rows in the input.

    Raises:
        ValueError: no worker, or a negative number; in the layers' forward, numbers whose sum is
            not that of the input's rows.
    """
    if not rows or min(rows) < 0:
        raise ValueError(f"rows_per_worker takes one number, 0 or more, per worker, got {rows}")
    _ROWS.append(tuple(rows))
    try:
        yield
    finally:
        _ROWS.pop()


class BatchNorm(FxLeaf, _BatchNorm):
    """Batch normalization whose statistics belong to the images of one worker.

    In training the N images of the input are N / batch_per_worker workers' batches laid one after
    the other; each is normalized with its own mean and biased variance (Wu & He 2018, section
    4.1: statistics per GPU). Running statistics are the mean over the workers of each worker's
    mean and unbiased variance. In evaluation it is plain batch norm. Keys, initial values and
    formulas are those of `torch.nn.BatchNorm2d`.

    Input (N, C, *) with up to three spatial axes; output in the same shape, dtype and layout.
    Without the C++ kernels the gradient cannot be differentiated again in all layouts.

    Args:
        num_features: C.
        eps: added to the variance inside the root.
        momentum: weight of the new statistics in the running ones.
        affine: learn a scale and a shift per channel.
        batch_per_worker: images whose statistics belong together; None for the whole batch. Where
            the input holds regions in place of images, `rows_per_worker` says whose they are.

    An input without values (N = 0) gives an output without values, in training too.

    Raises (forward):
        ValueError: rank or channels do not match; in training, N is not a multiple of
            batch_per_worker nor the sum of `rows_per_worker`, or a worker has one value per
            channel.
    """

    batch_per_worker: int | None = None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        batch_per_worker: int | None = None,
    ) -> None:
        if batch_per_worker is not None and batch_per_worker < 1:
            raise ValueError(f"batch_per_worker must be at least 1, got {batch_per_worker}")
        super().__init__(num_features, eps, momentum, affine, True, device, dtype)
        self.batch_per_worker = batch_per_worker

    def forward(self, input: Tensor) -> Tensor:
        """Normalized input, in the same shape, dtype and memory format."""
        check_input(self, input)
        if not self.training:
            return evaluate(self, input)
        if shape_of(input).numel() == 0:
            return train_on_nothing(self, input)
        found = normalize_workers(
            self, input, self.weight, self.bias, self.batch_per_worker, running_of(self)
        )
        count_step(self)
        return found.output

    def extra_repr(self) -> str:
        """Torch's fields and batch_per_worker."""
        torchs: str = super().extra_repr()  # type: ignore[no-untyped-call]
        return f"{torchs}, batch_per_worker={self.batch_per_worker}"


class SyncBatchNorm(FxLeaf, _BatchNorm):
    """Batch normalization over the images of all workers of the step.

    In one process the step's batch holds all workers, so that the whole batch is normalized
    together. In several processes of torch.distributed's default group the statistics are those of
    all their images, however many each has: on the CPU by `synchronized_batch_norm`, computed in
    float32 for half input, elsewhere by the function behind `torch.nn.SyncBatchNorm`. (It is no
    subclass of that: DistributedDataParallel refuses those on the CPU.) Running statistics are the
    same in each process.

    Args:
        num_features: C of input (N, C, *), and the others as in `BatchNorm`.

    Raises (forward):
        ValueError: rank or channels do not match; in training, one value per channel over all
            processes.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, True, device, dtype)

    def forward(self, input: Tensor) -> Tensor:
        """Normalized input, in the same shape, dtype and memory format."""
        processes = _processes()
        check_input(self, input)
        if not self.training:
            return evaluate(self, input)
        if processes == 1 and shape_of(input).numel() == 0:
            return train_on_nothing(self, input)
        if processes == 1:
            found = _normalize_images(self, input, self.weight, self.bias, None, running_of(self))
            count_step(self)
            return found.output
        if input.device.type != "cpu":
            return _synchronized_by_torch(self, input, processes)
        output, mean, var, values = synchronized_batch_norm(input, self.weight, self.bias, self.eps)
        if values == 0:
            return train_on_nothing(self, input)
        update_running(self, Normalized(output, mean[None], var[None], values, 1, 1.0))
        return output


def _synchronized_by_torch(layer: SyncBatchNorm, input: Tensor, processes: int) -> Tensor:
    assert layer.num_batches_tracked is not None
    layer.num_batches_tracked.add_(1)
    running = layer.running_mean, layer.running_var
    group = torch.distributed.group.WORLD
    output: Tensor = torchs_sync_batch_norm.apply(
        input, layer.weight, layer.bias, *running, layer.eps, layer.momentum, group, processes
    )
    return output


def _processes() -> int:
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return 1


def check_input(layer: _BatchNorm, input: Tensor) -> None:
    """Raise ValueError unless the input is (N, C, *) with at most three spatial axes."""
    shape = shape_of(input)
    if not 2 <= len(shape) <= 5 or shape[1] != layer.num_features:
        raise ValueError(
            f"expected input (N, {layer.num_features}, *) with at most three spatial axes, got "
            f"{tuple(shape)} for {layer}"
        )


def evaluate(layer: _BatchNorm, input: Tensor) -> Tensor:
    """The input normalized with the running statistics."""
    running_mean, running_var = layer.running_mean, layer.running_var
    return F.batch_norm(input, running_mean, running_var, layer.weight, layer.bias, eps=layer.eps)


def train_on_nothing(layer: _BatchNorm, input: Tensor) -> Tensor:
    """An input without values in training: as in PyTorch the step counts and no statistics move."""
    count_step(layer)
    return evaluate(layer, input)


class Normalized(NamedTuple):
    """A batch normalized with the statistics of each worker.

    Attributes:
        output: (N, C, *).
        mean: (K, C) of the K workers that have rows.
        var: biased, alike.
        rows: of each of the K workers: one number for all, or a tensor (K,).
        positions: values per row and channel.
        share: K over the number of all workers.
    """

    output: Tensor
    mean: Tensor
    var: Tensor
    rows: int | Tensor
    positions: int
    share: float


def normalize_workers(
    layer: _BatchNorm,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    batch_per_worker: int | None,
    running: Running | None = None,
) -> Normalized:
    """Normalize every worker's rows of a batch that has values, as the layer does in training.

    Args:
        running: moved towards the mean over the workers that have rows. Those without rows hold on
            to the old ones, so that it moves by its weight times `Normalized.share`.

    Raises:
        ValueError: as `BatchNorm`.
    """
    every = _ROWS[-1] if _ROWS else None
    if every is None:
        return _normalize_images(layer, input, weight, bias, batch_per_worker, running)
    shape = shape_of(input)
    if sum(every) != shape[0]:
        raise ValueError(
            f"rows_per_worker must add up to the rows of the input, got {every} and input "
            f"{tuple(shape)} for {layer}"
        )
    having = [count for count in every if count]
    positions = input.numel() // (input.shape[0] * input.shape[1])
    _check_values(layer, shape, min(having))
    output, mean, var = ragged_batch_norm(input, weight, bias, layer.eps, every)
    rows = torch.tensor(having, device=input.device)
    found = Normalized(output, mean, var, rows, positions, len(having) / len(every))
    if running is not None:
        _move(running, found)
    return found


def _normalize_images(
    layer: _BatchNorm,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    batch_per_worker: int | None,
    running: Running | None,
) -> Normalized:
    """The same where every worker has `batch_per_worker` rows; None for one worker."""
    shape = shape_of(input)
    if batch_per_worker is not None and shape[0] % batch_per_worker:
        raise ValueError(
            f"the batch must be a multiple of batch_per_worker, got {shape[0]} images "
            f"and batch_per_worker={batch_per_worker}; where the rows are regions of images, run "
            "the layer within rows_per_worker"
        )
    _check_values(layer, shape, batch_per_worker or shape[0])
    images = batch_per_worker or input.shape[0]
    positions = input.numel() // (input.shape[0] * input.shape[1])
    output, mean, var = chunked_batch_norm(input, weight, bias, layer.eps, images, running)
    return Normalized(output, mean, var, images, positions, 1.0)


def _check_values(layer: _BatchNorm, shape: torch.Size, rows: int) -> None:
    """Check that a worker with that many rows of the input has two values per channel."""
    if rows * shape[2:].numel() < 2:
        raise ValueError(
            f"batch norm needs more than one value per channel and worker in training, got input "
            f"{tuple(shape)} for {layer}"
        )


def running_of(layer: _BatchNorm) -> Running:
    """The running statistics of a layer, which move by its momentum."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    assert layer.momentum is not None
    return Running(layer.running_mean, layer.running_var, layer.momentum)


def count_step(layer: _BatchNorm) -> None:
    """Count a training step."""
    assert layer.num_batches_tracked is not None
    layer.num_batches_tracked.add_(1)


def update_running(layer: _BatchNorm, found: Normalized) -> None:
    """Count a training step, and move the running statistics as `normalize_workers` does."""
    count_step(layer)
    _move(running_of(layer), found)


def _move(running: Running, found: Normalized) -> None:
    running = running._replace(weight=running.weight * found.share)
    move_running(running, found.mean, found.var, found.rows * found.positions)
