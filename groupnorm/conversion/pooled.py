"""Means of several variables in each channel, and their products about them, batch by batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass
class Pooled:
    """Sums over all values seen, of K variables in C channels, in float64.

    Attributes:
        values: seen of each variable in each channel.
        mean: (K, C).
        about_mean: (K, K, C), the sum over the values of the products of two variables' distances
            from their means.
    """

    values: int
    mean: Tensor
    about_mean: Tensor

    @classmethod
    def of(cls, *variables: Tensor) -> Pooled:
        """The sums of one batch, each variable (N, C, *)."""
        rows = torch.stack([x.detach().double().transpose(0, 1).flatten(1) for x in variables])
        mean = rows.mean(2)
        rows = rows - mean[..., None]
        return cls(rows.shape[2], mean, torch.einsum("icn,jcn->ijc", rows, rows))

    def add(self, other: Pooled) -> None:
        """Merge the sums of another batch into these (Chan et al. 1979)."""
        total = self.values + other.values
        delta = other.mean - self.mean
        between = delta[:, None] * delta[None] * (self.values * other.values / total)
        self.about_mean = self.about_mean + other.about_mean + between
        self.mean = self.mean + delta * (other.values / total)
        self.values = total


def add_to(pools: dict[T, Pooled], key: T, batch: Pooled) -> None:
    """Merge a batch into the sums of a key, which may have none yet."""
    if key in pools:
        pools[key].add(batch)
    else:
        pools[key] = batch
