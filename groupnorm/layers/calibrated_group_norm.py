"""GroupNorm with what a conversion could not put into the layer in front of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from groupnorm.layers.base import check_channels
from groupnorm.layers.group_norm import GroupNorm
from groupnorm.ops.group_norm.activations import activate
from groupnorm.ops.group_norm.reference import grouped
from groupnorm.ops.per_channel import in_statistics_dtype, scale_and_shift


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
        """The normalized input, in its shape, dtype and memory format.

        Half input is computed in float32.
        """
        if self.input_weight is None and self.hybrid == 1:
            return super().forward(input)
        check_channels(input, self.num_channels, self)
        x = scale_and_shift(in_statistics_dtype(input), self.input_weight, self.input_bias)
        output = super().forward(x) if self.hybrid == 1 else self._mixed(x)
        return output.to(input.dtype)

    def _mixed(self, x: Tensor) -> Tensor:
        """The norm with the group's statistics and the stored ones."""
        axes = tuple(range(2, x.dim() + 1))  # of x with its groups apart
        mean = grouped(x, self.num_groups).mean(axes)
        centred = x - self._to_channels(mean, x)
        var = grouped(centred * centred, self.num_groups).mean(axes)
        stored = 1 - self.hybrid
        var = self.hybrid * var + stored * self.stored_var.to(x.dtype)
        moved = stored * (mean - self.stored_mean.to(x.dtype))  # the group's mean to the mixed one
        rstd = torch.rsqrt(var + self.eps)
        normalized = (centred + self._to_channels(moved, x)) * self._to_channels(rstd, x)
        return activate(scale_and_shift(normalized, self.weight, self.bias), self.activation)

    def _to_channels(self, values: Tensor, x: Tensor) -> Tensor:
        """Values of groups, (N, num_groups), in the shape (N, C, 1, ...) that goes with x."""
        shape = (x.shape[0], self.num_channels, *[1] * (x.dim() - 2))
        return values.repeat_interleave(self.channels_per_group, 1).view(shape)

    def extra_repr(self) -> str:
        """As `GroupNorm`, and what it has besides."""
        return (
            f"{super().extra_repr()}, input_affine={self.input_weight is not None}, "
            f"hybrid={self.hybrid:g}"
        )
