"""What norms written in plain PyTorch share."""

from __future__ import annotations

import torch
from torch import Tensor

from groupnorm.ops.group_norm.reference import statistics_dtype


def in_statistics_dtype(input: Tensor) -> Tensor:
    """The input in the accumulation dtype: float64 stays, everything else is float32."""
    return input.to(statistics_dtype(input.dtype))


def centred_and_variance(x: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """x minus its mean over the axes, and the biased variance, which keeps them as size 1."""
    centred = x - x.mean(axes, keepdim=True)
    return centred, (centred * centred).mean(axes, keepdim=True)


def per_channel(values: Tensor, x: Tensor) -> Tensor:
    """Values (C,) in the dtype of x (N, C, *), in the shape (C, 1, ...) that multiplies it."""
    return values.to(x.dtype).view(-1, *[1] * (x.dim() - 2))


def scale_and_shift(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """x * weight + bias for x (N, C, *) and parameters (C,) or None."""
    if weight is not None:
        x = x * per_channel(weight, x)
    if bias is not None:
        x = x + per_channel(bias, x)
    return x


def parameters_for(
    input: Tensor, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Both (C,) in the accumulation dtype of the input; 1 and 0 where there is none."""
    c, dtype, device = input.shape[1], statistics_dtype(input.dtype), input.device
    return (
        torch.ones(c, dtype=dtype, device=device) if weight is None else weight.to(dtype),
        torch.zeros(c, dtype=dtype, device=device) if bias is None else bias.to(dtype),
    )
