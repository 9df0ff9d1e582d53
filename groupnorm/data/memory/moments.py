"""Mean and standard deviation of pixels, exact whatever their number."""

from __future__ import annotations

import torch
from torch import Tensor


def pixel_moments(pixels: Tensor, channel_dim: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel of uint8 pixels, taken as values in [0, 1].

    They come from counts of the 256 values, so that no rounding error grows with the set.

    Returns:
        Two float32 tensors (C,).
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in pixels.unbind(channel_dim):
        share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        mean = (share * values).sum()
        means.append(mean)
        stds.append((share * (values - mean).square()).sum().sqrt())
    return torch.stack(means).float(), torch.stack(stds).float()
