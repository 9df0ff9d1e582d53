"""Moments of the groups of a norm's input."""

from __future__ import annotations

import torch
from torch import Tensor


def group_moments(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Biased variance and mean of each group of x (N, C, *), each (N, G), in float64."""
    return torch.var_mean(x.detach().double().reshape(x.shape[0], groups, -1), 2, correction=0)


def group_offsets(var: Tensor, mean: Tensor, eps: Tensor) -> Tensor:
    """|mean| / sqrt(var + eps) (N, G): how far groups lie from zero, in units of their spread.

    Args:
        var: biased variances (N, G), and `mean`, as `group_moments` returns them.
        mean: see `var`.
        eps: of each group, (G,).
    """
    return mean.abs() * torch.rsqrt(var + eps)
