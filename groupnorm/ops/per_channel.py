"""What the layers written in plain PyTorch share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from groupnorm.ops.group_norm.reference import statistics_dtype


def widened(input: Tensor) -> Tensor:
    """The input in the type of its statistics: float64 stays, everything else is float32."""
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


def wide_parameters(
    input: Tensor, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Both (C,) in the type of the input's statistics; 1 and 0 where there is none."""
    c, dtype, device = input.shape[1], statistics_dtype(input.dtype), input.device
    return (
        torch.ones(c, dtype=dtype, device=device) if weight is None else weight.to(dtype),
        torch.zeros(c, dtype=dtype, device=device) if bias is None else bias.to(dtype),
    )


def affine_parameters(
    layer: nn.Module,
    num_channels: int,
    affine: bool,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> None:
    """Register `weight` and `bias` of shape (C,) in the layer, or None without `affine`."""
    for name in ("weight", "bias"):
        values = torch.empty(num_channels, device=device, dtype=dtype) if affine else None
        layer.register_parameter(name, None if values is None else nn.Parameter(values))


def fill_parameters(layer: nn.Module, **values: float) -> None:
    """Fill each named parameter that the layer has with its value."""
    for name, value in values.items():
        parameter = getattr(layer, name)
        if parameter is not None:
            nn.init.constant_(parameter, value)


def check_channels(input: Tensor, num_channels: int, layer: nn.Module) -> None:
    """Raise ValueError unless the input is (N, num_channels, *)."""
    if input.dim() < 2 or input.shape[1] != num_channels:
        raise ValueError(
            f"expected input (N, {num_channels}, *), got {tuple(input.shape)} for {layer}"
        )
