"""Floating-point operations of a forward and a backward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of a whole batch: of the forward pass, and of a training step's
    forward and backward pass together."""

    forward: int
    training: int


def count_flops(model: nn.Module, *inputs: Tensor) -> Flops:
    """Floating-point operations of one forward and one backward pass over a batch.

    Counted are convolutions and matrix products (and PyTorch's fused attention), a multiplication
    and an addition as two: what `torch.utils.flop_counter` counts. Not counted is everything that
    works element by element or sums up: normalization, activations, pooling, weight
    standardization, the loss and the optimizer. Two norms in the same network therefore have the
    same number; what a norm costs is in its share of the time.

    Gradients are left in the model's parameters. On tensors without memory nothing is computed,
    and the number is the same.
    """
    with counting_flops() as counter, torch.enable_grad():
        output = model(*inputs)
        forward = counter.get_total_flops()
        output.sum().backward()
    return Flops(forward, counter.get_total_flops())


def counting_flops() -> FlopCounterMode:
    """A context that counts; `get_total_flops()` is the number so far."""
    from torch.utils.flop_counter import FlopCounterMode  # loads triton, where there is one

    return FlopCounterMode(display=False)
