"""GroupNorm with what a conversion could not put into the layer in front of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from groupnorm.layers.group_norm import GroupNorm
from groupnorm.ops.group_norm.activations import activate


class CalibratedGroupNorm(GroupNorm):
    """Group normalization of input_weight * input + input_bias, in part with stored statistics.

    `groupnorm.convert` makes it where no convolution stands in front of a norm that could take the
    scale and offset of each channel, and for `hybrid` below 1: mean and
    variance are then hybrid times the group's and 1 - hybrid times the stored ones.

    Args:
        num_groups: and num_channels, eps, device, dtype, activation: as in `GroupNorm`.
        num_channels: see `num_groups`.
        eps: see `num_groups`.
        device: see `num_groups`.
        dtype: see `num_groups`.
        input_affine: have `input_weight` and `input_bias`, (C,), 1 and 0 at first.
        hybrid: 1 for the group's statistics alone; below, `stored_mean` and `stored_var`
            (num_groups,), 0 and 1 at first, are buffers.
        activation: see `num_groups`.

    Raises:
        ValueError: as `GroupNorm`, or hybrid is outside of 0 to 1.
    """

    input_weight: nn.Parameter | None
    input_bias: nn.Parameter | None
    stored_mean: Tensor
    stored_var: Tensor

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        input_affine: bool = True,
        hybrid: float = 1.0,
        activation: str | None = None,
    ) -> None:
        if not 0 <= hybrid <= 1:
            raise ValueError(f"hybrid must lie between 0 and 1, got {hybrid}")
        super().__init__(num_groups, num_channels, eps, True, device, dtype, activation=activation)
        self.hybrid = hybrid
        for name, value in (("input_weight", 1.0), ("input_bias", 0.0)):
            values = torch.full((num_channels,), value, device=device, dtype=dtype)
            self.register_parameter(name, nn.Parameter(values) if input_affine else None)
        if hybrid < 1:
            for name, value in (("stored_mean", 0.0), ("stored_var", 1.0)):
                values = torch.full((num_groups,), value, device=device, dtype=dtype)
                self.register_buffer(name, values)

    def forward(self, input: Tensor) -> Tensor:
        """The normalized input, in its shape and dtype."""
        if self.input_weight is not None and self.input_bias is not None:
            shape = (-1, *[1] * (input.dim() - 2))
            input = input * self.input_weight.view(shape) + self.input_bias.view(shape)
        if self.hybrid == 1:
            return super().forward(input)
        grouped = input.reshape(input.shape[0], self.num_groups, -1)
        var, mean = torch.var_mean(grouped, 2, correction=0, keepdim=True)
        a = self.hybrid
        mean = a * mean + (1 - a) * self.stored_mean.unsqueeze(1)
        var = a * var + (1 - a) * self.stored_var.unsqueeze(1)
        normalized = ((grouped - mean) * torch.rsqrt(var + self.eps)).view(input.shape)
        shape = (-1, *[1] * (input.dim() - 2))
        output = normalized * self.weight.view(shape) + self.bias.view(shape)
        return activate(output, self.activation)

    def extra_repr(self) -> str:
        """As `GroupNorm`, and what it has besides."""
        return (
            f"{super().extra_repr()}, input_affine={self.input_weight is not None}, "
            f"hybrid={self.hybrid:g}"
        )
