"""Batch normalization over the images of all processes, on the CPU, where PyTorch has none.

Forward, every process tells the others how many values per channel it holds, their mean and the
sum of squares about it; each merges all of them (Chan et al. 1979), in the same order and in
float64, so that all get the same bits. Backward, two sums per channel are added up over the
processes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from groupnorm.ops.per_channel import in_statistics_dtype, parameters_for, per_channel


def synchronized_batch_norm(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Normalize with mean and biased variance over the images of all processes.

    Every process of torch.distributed's default group must call it; their numbers of images may
    differ, and be 0, also in all of them. As with `torch.nn.SyncBatchNorm`, the gradients of
    weight and bias are those of this process's images.

    Args:
        input: (N, C, *), and weight, bias and eps as in `chunked_batch_norm`.

    Returns:
        The output in the input's shape, dtype and memory format; mean and biased variance (C,),
        float64, constants to autograd; the number of values per channel over all processes.

    Raises:
        ValueError: one value per channel over all processes.
    """
    weight, bias = parameters_for(input, weight, bias)
    y, mean, var, values = _Synchronized.apply(in_statistics_dtype(input), weight, bias, eps)
    return y.to(input.dtype), mean, var, values


class _Synchronized(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        values, mean, about_mean = _merged(*_own_moments(input))
        if values == 1:
            raise ValueError(
                f"batch norm needs more than one value per channel in training, got {values} over "
                f"all processes, input {tuple(input.shape)}"
            )
        var = about_mean / values
        rstd = torch.rsqrt(var + eps)
        centred = input - per_channel(mean.to(input.dtype), input)
        y = centred * per_channel(rstd * weight, input) + per_channel(bias, input)
        ctx.save_for_backward(centred, weight, rstd)
        ctx.values = values
        ctx.mark_non_differentiable(mean, var)
        return y, mean, var, values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor, *unused: Any) -> tuple[Any, ...]:
        centred, weight, rstd = ctx.saved_tensors
        axes = [0, *range(2, centred.dim())]
        db = grad_output.sum(axes)
        dw = (grad_output * centred).sum(axes) * rstd
        sums = torch.stack([db, dw]).double()
        dist.all_reduce(sums)
        mean_db, mean_dw = sums / ctx.values
        xhat = centred * per_channel(rstd, centred)
        inside = grad_output - per_channel(mean_db, centred) - xhat * per_channel(mean_dw, centred)
        dx = inside * per_channel(rstd * weight, centred)
        return dx, dw.to(weight.dtype), db, None


def _own_moments(x: Tensor) -> tuple[int, Tensor, Tensor]:
    """Values per channel, their mean and the sum of squares about it (C,), in float64."""
    c = x.shape[1]
    values = x.numel() // c
    if values == 0:
        return 0, *torch.zeros(2, c, dtype=torch.float64, device=x.device)
    axes = [0, *range(2, x.dim())]
    mean = x.mean(axes)
    delta = x - per_channel(mean, x)
    # what the rounding of the mean left
    residual_mean = delta.mean(axes).double()
    about_mean = delta.square().sum(axes).double() - values * residual_mean**2
    return values, mean.double() + residual_mean, about_mean


def _merged(values: int, mean: Tensor, about_mean: Tensor) -> tuple[int, Tensor, Tensor]:
    """The moments of all processes' values together, the same bits in each."""
    own = torch.cat([torch.full_like(mean[:1], values), mean, about_mean])
    each = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(each, own)
    counts = torch.stack([one[0] for one in each])
    means, abouts = torch.stack([one[1:] for one in each]).chunk(2, dim=1)
    total = counts.sum()
    share = (counts / total.clamp_min(1)).unsqueeze(1)
    merged = (share * means).sum(0)
    delta = means - merged
    about = (abouts + counts.unsqueeze(1) * delta**2).sum(0)
    return int(total), merged, about
