"""Batch normalization with statistics per worker, and over all workers."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn


class BatchNorm(nn.Module):
    """Batch normalization whose statistics belong to the images of one worker.

    In training the N images of the input are N / batch_per_worker workers' batches laid one after
    the other; each is normalized with its own mean and biased variance (Wu & He 2018, section
    4.1: statistics per GPU). Running statistics are the mean over the workers of each worker's
    mean and unbiased variance. In evaluation it is plain batch norm. Keys, initial values and
    formulas are those of `torch.nn.BatchNorm2d`.

    Input (N, C, *) with up to three spatial axes; output in the same shape.

    Args:
        num_features: C.
        eps: added to the variance inside the root.
        momentum: weight of the new statistics in the running ones.
        affine: learn a scale and a shift per channel.
        batch_per_worker: images whose statistics belong together; None for the whole batch.

    Raises (forward, training):
        ValueError: N is not a multiple of batch_per_worker, the channels do not match, or a
            worker has one value per channel.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

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
        super().__init__()
        if batch_per_worker is not None and batch_per_worker < 1:
            raise ValueError(f"batch_per_worker must be at least 1, got {batch_per_worker}")
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.batch_per_worker = batch_per_worker
        if affine:
            self.weight = nn.Parameter(torch.empty(num_features, device=device, dtype=dtype))
            self.bias = nn.Parameter(torch.empty(num_features, device=device, dtype=dtype))
        else:
            self.register_parameter("weight", None)
            self.register_parameter("bias", None)
        for name in ("running_mean", "running_var"):
            self.register_buffer(name, torch.empty(num_features, device=device, dtype=dtype))
        self.register_buffer(
            "num_batches_tracked", torch.zeros((), dtype=torch.long, device=device)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Scale 1, shift 0, running mean 0, running variance 1."""
        nn.init.zeros_(self.running_mean)
        nn.init.ones_(self.running_var)
        nn.init.zeros_(self.num_batches_tracked)
        if self.affine:
            nn.init.ones_(self.weight)
            nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """Normalized input, in the same shape, dtype and memory format."""
        if input.dim() < 2 or input.shape[1] != self.num_features:
            raise ValueError(
                f"expected input (N, {self.num_features}, *), got {tuple(input.shape)} for {self}"
            )
        if not self.training:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        output, mean, var = self.normalize(input)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.mean(0).to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(
                (var * unbiasing(self.chunk_values(input))).mean(0).to(self.running_var.dtype),
                self.momentum,
            )
        return output

    def normalize(self, input: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Output, and the workers' means and biased variances, each (workers, C)."""
        images = self.batch_per_worker or input.shape[0]
        if images == 0 or input.shape[0] % images:
            raise ValueError(
                f"the batch must be a multiple of batch_per_worker, got {input.shape[0]} images "
                f"and batch_per_worker={images}"
            )
        if self.chunk_values(input) < 2:
            raise ValueError(
                f"batch norm needs more than one value per channel and worker in training, got "
                f"input {tuple(input.shape)} with batch_per_worker={images}"
            )
        weight, bias = self.weight, self.bias
        if weight is None or bias is None:
            weight = input.new_ones(self.num_features, dtype=self.running_mean.dtype)
            bias = torch.zeros_like(weight)
        result: tuple[Tensor, Tensor, Tensor] = _ChunkedBatchNorm.apply(
            input, weight, bias, self.eps, images
        )
        return result

    def chunk_values(self, input: Tensor) -> int:
        """Values per channel in one worker's share of `input`."""
        images = self.batch_per_worker or input.shape[0]
        return images * input[0, 0].numel() if input.shape[0] else 0

    def extra_repr(self) -> str:
        """The arguments, for repr."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, "
            f"affine={self.affine}, batch_per_worker={self.batch_per_worker}"
        )


class SyncBatchNorm(BatchNorm):
    """Batch normalization over the images of all workers of the step.

    In one process the step's batch holds all workers, so that the whole batch is normalized
    together. In several processes `torch.nn.SyncBatchNorm` is the layer to use, and this one
    refuses to normalize with one process's statistics.
    """

    def normalize(self, input: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Output, and the mean and biased variance over all workers, each (1, C)."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            size = torch.distributed.get_world_size()
            if size > 1:
                raise RuntimeError(
                    f"syncbn in {size} processes: convert the model with "
                    "torch.nn.SyncBatchNorm.convert_sync_batchnorm; this layer synchronizes "
                    "the workers of one process only"
                )
        return super().normalize(input)


def unbiasing(values: int) -> float:
    """n / (n - 1): from biased to unbiased variance over n values."""
    return values / (values - 1)


class _ChunkedBatchNorm(torch.autograd.Function):
    """Normalizes every chunk of `images` images on its own, without a loop over the chunks.

    Letters: K chunks, R rows. The input is seen as (K, R, C) rows of channels when it is
    channels_last, and as (K, images, C, S) otherwise; both are views. Two passes, centred.
    """

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor, eps: float, images: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
        chunks, view, axes = _view(input, images, _is_rows(input))
        x = view.to(dtype)
        count = x.numel() // (chunks * input.shape[1])
        mean = _mean(x, axes)
        centred = x - mean
        var = torch.linalg.vector_norm(centred, dim=axes, keepdim=True).square_() / count
        rstd = torch.rsqrt(var + eps)
        broadcast = (1, 1, -1) if len(axes) == 1 else (1, 1, -1, 1)
        scale = rstd * weight.to(dtype).view(broadcast)
        output, output_view = _empty_like(input, images)
        if output.dtype == dtype:
            torch.addcmul(bias.to(dtype).view(broadcast), centred, scale, out=output_view)
        else:
            output_view.copy_(torch.addcmul(bias.to(dtype).view(broadcast), centred, scale))
        ctx.save_for_backward(centred, rstd, weight)
        ctx.images, ctx.input_dtype, ctx.bias_dtype = images, input.dtype, bias.dtype
        mean, var = mean.reshape(chunks, -1), var.reshape(chunks, -1)
        ctx.mark_non_differentiable(mean, var)
        return output, mean, var

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor, *unused: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "BatchNorm in training has no double backward (create_graph=True); "
                "use torch.nn.BatchNorm2d where gradients of gradients are needed"
            )
        centred, rstd, weight = ctx.saved_tensors
        rows = centred.dim() == 3
        layout = _rows_format(grad_output) if rows else torch.contiguous_format
        grad_output = grad_output.contiguous(memory_format=layout)
        _, view, axes = _view(grad_output, ctx.images, rows)
        g = view.to(centred.dtype)
        count = centred.numel() // rstd.numel()
        sum_g = g.sum(axes, keepdim=True)
        sum_gx = (g * centred).sum(axes, keepdim=True) * rstd
        all_but_channel = [0, 1] if rows else [0, 1, 3]
        grad_weight = sum_gx.sum(all_but_channel)
        grad_bias = sum_g.sum(all_but_channel)
        broadcast = (1, 1, -1) if rows else (1, 1, -1, 1)
        scale = rstd * weight.to(centred.dtype).view(broadcast)
        dx = torch.addcmul(scale * sum_g / -count, g, scale)
        dx.addcmul_(centred, scale * rstd * sum_gx / -count)
        return (
            _unview(dx.to(ctx.input_dtype), grad_output),
            grad_weight.to(weight.dtype),
            grad_bias.to(ctx.bias_dtype),
            None,
            None,
        )


def _rows_format(tensor: Tensor) -> torch.memory_format:
    return torch.channels_last if tensor.dim() == 4 else torch.channels_last_3d


def _is_rows(input: Tensor) -> bool:
    """True for channels_last input that is not contiguous as (N, C, *)."""
    return (
        input.dim() in (4, 5)
        and not input.is_contiguous()
        and input.is_contiguous(memory_format=_rows_format(input))
    )


def _view(input: Tensor, images: int, rows: bool) -> tuple[int, Tensor, tuple[int, ...]]:
    """Chunks K, `input` as (K, R, C) or (K, images, C, S), and the axes of one channel's values."""
    n, c = input.shape[:2]
    chunks = n // images
    if rows:
        return chunks, input.movedim(1, -1).view(chunks, -1, c), (1,)
    return chunks, input.contiguous().view(chunks, images, c, -1), (1, 3)


def _empty_like(input: Tensor, images: int) -> tuple[Tensor, Tensor]:
    """A new tensor in the input's shape and memory format, and its view as `_view` gives it."""
    rows = _is_rows(input)
    layout = _rows_format(input) if rows else torch.contiguous_format
    output = torch.empty(input.shape, dtype=input.dtype, device=input.device, memory_format=layout)
    return output, _view(output, images, rows)[1]


def _unview(value: Tensor, like: Tensor) -> Tensor:
    """The inverse of `_view`, in the shape and memory format of `like`."""
    if value.dim() == 3:
        n, c, *spatial = like.shape
        return value.view(n, *spatial, c).movedim(-1, 1)
    return value.view(like.shape)


def _mean(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    if len(axes) == 1:
        return x.mean(1, keepdim=True)
    return x.mean(3, keepdim=True).mean(1, keepdim=True)  # the inner axis first: much faster
