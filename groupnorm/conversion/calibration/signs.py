"""Signs of channels for which the mean of their group stays nearly the same over the samples."""

from __future__ import annotations

import torch
from torch import Tensor

RESTARTS = 16
"""Random starts of the search for signs, for each group."""


def least_signs(
    matrix: Tensor, generator: torch.Generator, *, balance: float = 0.0, restarts: int = RESTARTS
) -> Tensor:
    """Signs e of +1 and -1 with small e' K e + balance mean(diag K) (sum e)^2, for each group.

    Local search: the sign whose flip lowers the value most is flipped until none does, from the
    start where all are +1 and from random ones; the best end is taken. With K the covariance of
    the sample means of a group's channels, e' K e is D^2 times the variance of the group's mean
    when the channels get these signs.

    Args:
        matrix: K, symmetric (G, D, D).
        generator: of the random starts, on the CPU.
        balance: weight of signs that do not balance.
        restarts: number of random starts.

    Returns:
        (G, D) in the matrix's dtype. The value is never above that of all +1.
    """
    groups, d = matrix.shape[:2]
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    scale = diagonal.mean(1).clamp(min=1e-12)
    if balance:
        matrix = matrix + balance * scale.view(-1, 1, 1)
        diagonal = matrix.diagonal(dim1=1, dim2=2)
    drawn = torch.rand(groups, restarts, d, generator=generator, dtype=matrix.dtype)
    signs = torch.cat([torch.ones(groups, 1, d, dtype=matrix.dtype), (drawn < 0.5) * 2.0 - 1], 1)
    field = signs @ matrix
    smallest = -1e-12 * d * scale.view(-1, 1)  # less than rounding gains
    rows = torch.arange(groups).view(-1, 1)
    while True:
        change, which = (diagonal.unsqueeze(1) - signs * field).min(2)
        flip = change < smallest
        if not bool(flip.any()):
            break
        old = signs.gather(2, which.unsqueeze(2))
        step = -2 * old * flip.unsqueeze(2)
        signs.scatter_add_(2, which.unsqueeze(2), step)
        field += step * matrix[rows, which]
    best = (signs * field).sum(2).argmin(1)
    return signs[torch.arange(groups), best]
