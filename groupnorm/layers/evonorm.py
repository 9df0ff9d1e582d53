"""EvoNorm-S0: a normalization and its activation, found together."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from groupnorm.layers.base import FxLeaf, affine_parameters, check_channels, fill_parameters
from groupnorm.ops.group_norm.reference import grouped
from groupnorm.ops.per_channel import (
    centred_and_variance,
    in_statistics_dtype,
    per_channel,
    scale_and_shift,
)


class EvoNormS0(FxLeaf, nn.Module):
    """EvoNorm-S0 (Liu et al. 2020, arXiv 2004.02967, Table 2).

    y = x * sigmoid(v * x) / sqrt(var + eps) * weight + bias with the biased variance of each image
    and group of channels, and a learned v per channel. x is not centred. It takes the place of a
    norm and its ReLU. Keys `weight`, `bias` and `v`.

    Input (N, C, *); output in the same shape, dtype and memory format; half input is computed in
    float32.

    Args:
        num_groups: number of groups, a divisor of num_channels.
        num_channels: C.
        eps: added to the biased variance inside the root.
        affine: learn a scale and a shift per channel; v is learned in any case.
        apply_act: False leaves x * weight + bias, without activation and, as in timm, without
            statistics, for a norm that an addition follows.

    Raises:
        ValueError: num_channels is not a multiple of num_groups; in forward, the channels do not
            match.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    v: nn.Parameter | None
    apply_act: bool = True

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        apply_act: bool = True,
    ) -> None:
        super().__init__()
        if num_groups < 1 or num_channels < 1 or num_channels % num_groups:
            raise ValueError(
                f"num_channels must be a multiple of num_groups, got {num_channels} channels and "
                f"{num_groups} groups; norm_layer('evonorm_s0:groups={num_groups}') picks a "
                "divisor itself"
            )
        self.num_groups = num_groups
        self.num_channels = num_channels
        self.eps = eps
        self.apply_act = apply_act
        affine_parameters(self, num_channels, affine, device, dtype)
        v = nn.Parameter(torch.empty(num_channels, device=device, dtype=dtype))
        self.register_parameter("v", v if apply_act else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Scale 1, shift 0, v 1."""
        fill_parameters(self, weight=1, bias=0, v=1)

    def forward(self, input: Tensor) -> Tensor:
        """EvoNorm-S0 of the input, in its shape, dtype and memory format."""
        check_channels(input, self.num_channels, self)
        x = in_statistics_dtype(input)
        if self.v is not None:
            groups = grouped(x, self.num_groups)
            _, var = centred_and_variance(groups, tuple(range(2, groups.dim())))
            rstd = torch.rsqrt(var + self.eps)
            gated = grouped(x * torch.sigmoid(per_channel(self.v, x) * x), self.num_groups)
            x = (gated * rstd).flatten(1, 2)
        return scale_and_shift(x, self.weight, self.bias).to(input.dtype)

    def extra_repr(self) -> str:
        """Groups, and what defines the layer."""
        return (
            f"num_groups={self.num_groups}, num_channels={self.num_channels}, "
            f"channels_per_group={self.num_channels // self.num_groups}, eps={self.eps}, "
            f"affine={self.weight is not None}, apply_act={self.apply_act}"
        )
