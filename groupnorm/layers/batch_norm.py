"""Batch normalization with statistics per worker, and over all workers."""

from __future__ import annotations

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules._functions import SyncBatchNorm as torchs_sync_batch_norm  # noqa: N813
from torch.nn.modules.batchnorm import _BatchNorm

from groupnorm.layers.base import FxLeaf
from groupnorm.ops.batch_norm import chunked_batch_norm
from groupnorm.ops.sync_batch_norm import synchronized_batch_norm


class BatchNorm(FxLeaf, _BatchNorm):
    """Batch normalization whose statistics belong to the images of one worker.

    In training the N images of the input are N / batch_per_worker workers' batches laid one after
    the other; each is normalized with its own mean and biased variance (Wu & He 2018, section
    4.1: statistics per GPU). Running statistics are the mean over the workers of each worker's
    mean and unbiased variance. In evaluation it is plain batch norm. Keys, initial values and
    formulas are those of `torch.nn.BatchNorm2d`.

    Input (N, C, *) with up to three spatial axes; output in the same shape, dtype and layout. The
    gradient cannot be differentiated again in all layouts.

    Args:
        num_features: C.
        eps: added to the variance inside the root.
        momentum: weight of the new statistics in the running ones.
        affine: learn a scale and a shift per channel.
        batch_per_worker: images whose statistics belong together; None for the whole batch.

    An input without values (N = 0) gives an output without values, in training too.

    Raises (forward):
        ValueError: rank or channels do not match; in training, N is not a multiple of
            batch_per_worker, or a worker has one value per channel.
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
        return _forward(self, input, self.batch_per_worker)

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
        if not self.training or processes == 1:
            return _forward(self, input, None)
        check_input(self, input)
        if input.device.type != "cpu":
            return _synchronized_by_torch(self, input, processes)
        output, mean, var, values = synchronized_batch_norm(input, self.weight, self.bias, self.eps)
        if values == 0:
            return train_on_nothing(self, input)
        update_running(self, mean.unsqueeze(0), var.unsqueeze(0), values)
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


def _forward(layer: _BatchNorm, input: Tensor, batch_per_worker: int | None) -> Tensor:
    check_input(layer, input)
    if not layer.training:
        return evaluate(layer, input)
    if input.numel() == 0:
        return train_on_nothing(layer, input)
    images = images_per_chunk(layer, input, batch_per_worker)
    output, mean, var = chunked_batch_norm(input, layer.weight, layer.bias, layer.eps, images)
    update_running(layer, mean, var, images * input[0, 0].numel())
    return output


def check_input(layer: _BatchNorm, input: Tensor) -> None:
    """Raise ValueError unless the input is (N, C, *) with at most three spatial axes."""
    if not 2 <= input.dim() <= 5 or input.shape[1] != layer.num_features:
        raise ValueError(
            f"expected input (N, {layer.num_features}, *) with at most three spatial axes, got "
            f"{tuple(input.shape)} for {layer}"
        )


def evaluate(layer: _BatchNorm, input: Tensor) -> Tensor:
    """The input normalized with the running statistics."""
    running_mean, running_var = layer.running_mean, layer.running_var
    return F.batch_norm(input, running_mean, running_var, layer.weight, layer.bias, eps=layer.eps)


def train_on_nothing(layer: _BatchNorm, input: Tensor) -> Tensor:
    """An input without values in training: as in PyTorch the step counts and no statistics move."""
    assert layer.num_batches_tracked is not None
    layer.num_batches_tracked.add_(1)
    return evaluate(layer, input)


def images_per_chunk(layer: _BatchNorm, input: Tensor, batch_per_worker: int | None) -> int:
    """How many images share their statistics in training: batch_per_worker, or all N.

    Raises:
        ValueError: N is not a multiple of it, or a chunk has one value per channel.
    """
    images = batch_per_worker or input.shape[0]
    if input.shape[0] % images:
        raise ValueError(
            f"the batch must be a multiple of batch_per_worker, got {input.shape[0]} images "
            f"and batch_per_worker={images}"
        )
    if images * input[0, 0].numel() < 2:
        raise ValueError(
            f"batch norm needs more than one value per channel and worker in training, got input "
            f"{tuple(input.shape)} for {layer}"
        )
    return images


def update_running(layer: _BatchNorm, mean: Tensor, var: Tensor, values: int) -> None:
    """Move the running statistics towards the mean over the chunks.

    Args:
        mean: (K, C), and `var`, the biased variances, alike.
        values: per channel and chunk, for the unbiased variance.
    """
    assert layer.running_mean is not None
    assert layer.running_var is not None
    assert layer.num_batches_tracked is not None
    assert layer.momentum is not None
    with torch.no_grad():
        layer.num_batches_tracked.add_(1)
        unbiased = var.mean(0) * (values / (values - 1))
        layer.running_mean.lerp_(mean.mean(0).to(layer.running_mean.dtype), layer.momentum)
        layer.running_var.lerp_(unbiased.to(layer.running_var.dtype), layer.momentum)
