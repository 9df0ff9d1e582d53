"""Batched augmentation of uint8 images, every draw from one explicit generator."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def augment(
    images: Tensor,
    *,
    pad: int,
    flip: bool,
    mean: Tensor,
    std: Tensor,
    generator: torch.Generator,
    of: tuple[int, slice] | None = None,
) -> Tensor:
    """Pad with black, crop at random, flip half of the images, normalize (He et al. 2016, 4.2).

    Args:
        images: uint8 (N, C, H, W).
        pad: pixels added on every side before the crop of H x W.
        flip: mirror each image left to right with probability 1/2.
        mean: per channel (C,), pixels in [0, 1].
        std: likewise.
        generator: source of all draws, on the CPU.
        of: (whole, rows): the images are `rows` of a batch of `whole` images, and are what they
            would be in it; None when they are the batch.

    Returns:
        float32 (N, C, H, W) on the device of the images.
    """
    n, channels, height, width = images.shape
    whole, part = of or (n, slice(None))
    shifts = torch.randint(0, 2 * pad + 1, (2, whole), generator=generator)[:, part]
    mirrored = torch.zeros(n, dtype=torch.bool)
    if flip:
        mirrored = (torch.rand(whole, generator=generator) < 0.5)[part]
    rows = shifts[0].unsqueeze(1) + torch.arange(height)
    columns = torch.arange(width).expand(n, width)
    columns = torch.where(mirrored.unsqueeze(1), width - 1 - columns, columns)
    columns = columns + shifts[1].unsqueeze(1)
    padded = F.pad(images, (pad, pad, pad, pad)) if pad else images
    # One flat gather for the whole batch: offset of the row plus offset of the column.
    inside = rows.unsqueeze(2) * (width + 2 * pad) + columns.unsqueeze(1)
    inside = inside.view(n, 1, -1).expand(n, channels, -1).to(images.device)
    cropped = padded.view(n, channels, -1).gather(2, inside).view(images.shape)
    return normalize(cropped, mean, std)


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 (N, C, H, W) -> float32: (pixels / 255 - mean) / std per channel."""
    scale = (1 / (255 * std)).view(-1, 1, 1)
    shift = (mean / std).view(-1, 1, 1)
    return images.float().mul_(scale).sub_(shift)
