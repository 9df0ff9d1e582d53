"""The memory format of a run's weights and inputs, by the name that configurations have for it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def in_memory_format(values: Tensor, name: str) -> Tensor:
    """Images (N, C, H, W) or clips (N, C, T, H, W) in the format "contiguous" or "channels_last".

    Of clips the latter is torch's `channels_last_3d`. Values that are in it already are returned as
    they are.
    """
    if name == "channels_last":
        return values.contiguous(memory_format=_CHANNELS_LAST[values.dim()])
    return values.contiguous()


def weights_in_memory_format(model: nn.Module, name: str) -> None:
    """Bring the weights of a model's convolutions into the format, in place; as above.

    They are all of images or all of clips.
    """
    if name == "channels_last":
        dims = {weight.dim() for weight in model.parameters()}
        model.to(memory_format=_CHANNELS_LAST[5 if 5 in dims else 4])
