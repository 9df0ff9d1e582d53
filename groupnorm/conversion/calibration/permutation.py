"""An order of channels in which those that vary together share a group."""

from __future__ import annotations

import torch
from torch import Tensor

from groupnorm.conversion.calibration.moments import LayerMoments


def clustered_order(moments: LayerMoments, groups: int) -> Tensor:
    """Channels whose sample means correlate most, with either sign, next to each other.

    With opposite signs they then cancel in the mean of their group. Greedy: a group starts with the
    free channel that correlates most with another one, and takes the channel with the largest mean
    |correlation| to those that it has, until it is full.

    Args:
        moments: of the norm's input.
        groups: G, a divisor of the channels.

    Returns:
        The order (C,), for `LayerMoments.permuted` and `affine.permute_outputs`.

    Raises:
        ValueError: G does not divide the channels.
    """
    channels = moments.channels
    if groups < 1 or channels % groups:
        raise ValueError(f"{groups} groups do not divide {channels} channels")
    if groups in (1, channels):
        return torch.arange(channels)
    centred = moments.mean_x - moments.mean_x.mean(0)
    length = centred.norm(dim=0).clamp(min=torch.finfo(torch.float64).tiny)
    correlation = (centred / length).T @ (centred / length)
    correlation = correlation.abs().fill_diagonal_(-1)
    free = torch.ones(channels, dtype=torch.bool)
    order = []
    for _ in range(groups):
        among_free = correlation.masked_fill(~free, -1).amax(1).masked_fill(~free, -2)
        nearest = correlation.new_zeros(channels)
        chosen = int(among_free.argmax())
        for _ in range(channels // groups):
            order.append(chosen)
            free[chosen] = False
            nearest += correlation[chosen]
            chosen = int(nearest.masked_fill(~free, -torch.inf).argmax())
    return torch.tensor(order)
