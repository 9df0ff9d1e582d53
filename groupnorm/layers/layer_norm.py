"""Layer normalization over the channels of each position, ConvNeXt's; not the `ln` of GN."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from groupnorm.layers.base import FxLeaf, affine_parameters, check_channels, fill_parameters
from groupnorm.ops.per_channel import centred_and_variance, in_statistics_dtype, scale_and_shift


class LayerNorm2d(FxLeaf, nn.Module):
    """Every position of every image normalized over its C channels (Liu et al., arXiv 2201.03545).

    y = (x - mean) / sqrt(var + eps) * weight + bias with the mean and biased variance of x[n, :, s]
    for each image n and position s. Without scale and shift it is the positional normalization of
    Li et al. 2019 (arXiv 1907.04312). Keys as in `torch.nn.LayerNorm(C)`.

    Input (N, C, *) with any number of spatial axes, two as the name says or others; output in the
    same shape, dtype and memory format. Statistics of half input are computed in float32.

    Args:
        num_channels: C.
        eps: added to the biased variance inside the root.
        affine: learn a scale and a shift per channel.

    Raises (forward):
        ValueError: the channels do not match.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self,
        num_channels: int,
        eps: float = 1e-6,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_channels = num_channels
        self.eps = eps
        affine_parameters(self, num_channels, affine, device, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Scale 1, shift 0."""
        fill_parameters(self, weight=1, bias=0)

    def forward(self, input: Tensor) -> Tensor:
        """Normalized input, in the same shape, dtype and memory format."""
        check_channels(input, self.num_channels, self)
        centred, var = centred_and_variance(in_statistics_dtype(input), (1,))
        xhat = centred * torch.rsqrt(var + self.eps)
        return scale_and_shift(xhat, self.weight, self.bias).to(input.dtype)

    def extra_repr(self) -> str:
        """Channels, eps and affine."""
        return f"{self.num_channels}, eps={self.eps}, affine={self.weight is not None}"
