"""Batch normalization with constant statistics, scale and shift, for fine-tuning."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from groupnorm.layers.base import FxLeaf, check_channels
from groupnorm.ops.per_channel import in_statistics_dtype, per_channel


class FrozenBatchNorm(FxLeaf, nn.Module):
    """y = (x - running_mean) / sqrt(running_var + eps) * weight + bias, all four constants.

    Nothing is learned and nothing is averaged, in training as in evaluation: the batch norm of
    detectors that are fine-tuned with few images (He et al. 2017, arXiv 1703.06870; "AffineChannel"
    in Caffe2). The buffers have the names of torchvision's and detectron2's FrozenBatchNorm2d, so
    that state dicts load both ways. Those of a batch norm load too (its `num_batches_tracked` is
    left out), and those of an AffineChannel, which holds `weight` and `bias` alone: running_mean
    becomes 0 and running_var 1 - eps, so that y = x * weight + bias.

    A layer that nothing was loaded into is y = x / sqrt(1 + eps).

    Input (N, C, *); output in the same shape, dtype and memory format; half input is computed in
    float32. Autograd keeps nothing of the size of the input.

    Args:
        num_features: C.
        eps: added to running_var inside the root.

    Raises (forward):
        ValueError: the channels do not match.
    """

    # detectron2's: some of its releases take an older state's running_var for one without eps.
    _version = 3

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.empty(num_features, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Mean 0, variance 1, scale 1, shift 0."""
        for name, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
            getattr(self, name).fill_(value)

    def forward(self, input: Tensor) -> Tensor:
        """The input, scaled and shifted by constants, in the same dtype and memory format."""
        check_channels(input, self.num_features, self)
        x = in_statistics_dtype(input)
        scale = self.weight.to(x.dtype) * torch.rsqrt(self.running_var.to(x.dtype) + self.eps)
        x = (x - per_channel(self.running_mean, x)) * per_channel(scale, x)
        return (x + per_channel(self.bias, x)).to(input.dtype)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        state_dict.pop(f"{prefix}num_batches_tracked", None)
        mean, var = f"{prefix}running_mean", f"{prefix}running_var"
        if f"{prefix}weight" in state_dict and mean not in state_dict and var not in state_dict:
            state_dict[mean] = torch.zeros(self.num_features)
            state_dict[var] = torch.full((self.num_features,), 1 - self.eps)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        """Channels and eps."""
        return f"{self.num_features}, eps={self.eps}"
