"""The residual block of normalizer-free ResNets (Brock et al. 2021, arXiv 2101.08692)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ALPHA = 0.2
"""How much variance a residual branch adds: alpha^2 = 0.04 (the paper's value)."""


class NFBlock(nn.Module):
    """x + alpha * gain * f(x / beta) in place of normalization, f = conv2(relu(conv1(relu(.)))).

    With scaled weight standardization f keeps unit variance, so that the variance of a stage's
    signal is known beforehand: `beta` is its root at the block's input, and after the block it is
    alpha^2 more (section 3). Where the shape changes, the shortcut sees x / beta, and the variance
    starts again from 1. `gain` is a learned number that starts at 0 (SkipInit, De & Smith 2020),
    so that the block starts as its shortcut, as gamma = 0 does in blocks with norms.

    Args:
        conv1: first convolution of the branch, and `conv2` the second.
        shortcut: what takes the place of x where the shape changes, or None.
        shortcut_after_activation: the shortcut sees relu(x / beta), as convolutions whose gain
            counts on it; else x / beta.
        beta: root of the expected variance of x.
    """

    def __init__(
        self,
        conv1: nn.Module,
        conv2: nn.Module,
        shortcut: nn.Module | None,
        *,
        shortcut_after_activation: bool,
        beta: float,
    ) -> None:
        super().__init__()
        self.conv1 = conv1
        self.conv2 = conv2
        self.shortcut = shortcut
        self.shortcut_after_activation = shortcut_after_activation
        self.beta = beta
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Output of the shape that the shortcut gives."""
        scaled = x / self.beta
        activated = F.relu(scaled)
        out = self.conv2(F.relu(self.conv1(activated)))
        if self.shortcut is not None:
            x = self.shortcut(activated if self.shortcut_after_activation else scaled)
        output: Tensor = x + ALPHA * self.gain * out
        return output

    def extra_repr(self) -> str:
        """alpha and beta."""
        return f"alpha={ALPHA}, beta={self.beta:.4f}"


class SignalVariance:
    """The variance of the signal along the blocks of a network, as expected at initialization.

    Starts at 1, after a convolution of normalized images.
    """

    def __init__(self) -> None:
        self.value = 1.0

    def next_beta(self, shortcut_variance: float | None) -> float:
        """beta of the next block, and step past it.

        Args:
            shortcut_variance: what the block's shortcut makes of unit variance, averaged over its
                channels, where the shape changes; None where it does not.
        """
        beta = math.sqrt(self.value)
        self.value = (self.value if shortcut_variance is None else shortcut_variance) + ALPHA**2
        return beta
