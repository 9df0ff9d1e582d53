"""Dense tensors in one of the two memory formats that kernels know."""

from __future__ import annotations

import torch
from torch import Tensor

from groupnorm.ops.group_norm.memory import check_memory


def dense(x: Tensor) -> tuple[Tensor, bool]:
    """x, copied unless it is dense, and whether the channels lie innermost.

    Raises:
        RuntimeError: it is to be copied, and its storage was freed.
    """
    if x.is_contiguous():
        return x, False
    memory_format = _CHANNELS_LAST.get(x.dim())
    if memory_format is not None and x.is_contiguous(memory_format=memory_format):
        return x, True
    if x.dim() > 2 and x.movedim(1, -1).is_contiguous():
        return x, True
    check_memory(x)
    return x.contiguous(), False


_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}  # the others by their strides


def match_strides(x: Tensor, other: Tensor) -> Tensor:
    """`other` with the strides of x, copied if need be.

    Raises:
        RuntimeError: it is to be copied, and its storage was freed.
    """
    if other.stride() == x.stride():
        return other
    check_memory(other)
    return torch.empty_like(x).copy_(other)
