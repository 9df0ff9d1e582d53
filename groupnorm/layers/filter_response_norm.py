"""Filter response normalization with its thresholded linear unit."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from groupnorm.layers.base import FxLeaf, affine_parameters, check_channels, fill_parameters
from groupnorm.ops.group_norm.memory import shape_of
from groupnorm.ops.per_channel import in_statistics_dtype, per_channel, scale_and_shift

_FIRST_LEARNED_EPS = 1e-4


class FilterResponseNorm(FxLeaf, nn.Module):
    """Filter response normalization, and the activation that goes with it (Singh & Krishnan 2020).

    y = x / sqrt(mean(x^2) + eps) * weight + bias with the mean over the positions of each image
    and channel (arXiv 1911.09737, equations 1 to 3), then max(y, tau) with a learned tau per
    channel (the TLU, equation 4). It takes the place of a norm and its ReLU. Keys `weight`, `bias`
    and `tau`.

    On a map of one position y is the sign of x, up to eps. For such maps the paper learns
    eps + abs(learned_eps), from 1e-4 (section 3.1): `learn_eps`, one number per layer.

    Input (N, C, *); output in the same shape, dtype and memory format; half input is computed in
    float32.

    Args:
        num_channels: C.
        eps: added to the mean square inside the root.
        affine: learn a scale and a shift per channel; tau is learned in any case.
        learn_eps: learn an addition to eps.
        apply_act: False leaves the activation and tau out, for a norm that an addition follows.

    Raises (forward):
        ValueError: the channels do not match.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    tau: nn.Parameter | None
    learned_eps: nn.Parameter | None
    apply_act: bool = True

    def __init__(
        self,
        num_channels: int,
        eps: float = 1e-6,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        learn_eps: bool = False,
        apply_act: bool = True,
    ) -> None:
        super().__init__()
        self.num_channels = num_channels
        self.eps = eps
        self.apply_act = apply_act
        affine_parameters(self, num_channels, affine, device, dtype)
        for name, size, wanted in (
            ("tau", num_channels, apply_act),
            ("learned_eps", 1, learn_eps),
        ):
            values = torch.empty(size, device=device, dtype=dtype) if wanted else None
            self.register_parameter(name, None if values is None else nn.Parameter(values))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Scale 1, shift 0, threshold 0, learned eps 1e-4."""
        fill_parameters(self, weight=1, bias=0, tau=0, learned_eps=_FIRST_LEARNED_EPS)

    def forward(self, input: Tensor) -> Tensor:
        """max(FRN(input), tau), in the input's shape, dtype and memory format."""
        check_channels(input, self.num_channels, self)
        if (
            self.learned_eps is None
            and self.training
            and not torch.compiler.is_compiling()
            and shape_of(input)[2:].numel() == 1
        ):
            warnings.warn(
                f"{self} sees one position in input {tuple(input.shape)}, where the output is the "
                "sign of the input; learn_eps=True is made for this ('frn:learn_eps=true')",
                stacklevel=2,
            )
        x = in_statistics_dtype(input)
        positions = tuple(range(2, x.dim()))
        square = x * x
        # The mean over no positions would be NaN, and so would the gradient of learned_eps.
        averaged = positions and shape_of(x).numel() > 0
        mean_square = square.mean(positions, keepdim=True) if averaged else square
        eps: float | Tensor = self.eps
        if self.learned_eps is not None:
            eps = eps + self.learned_eps.to(x.dtype).abs()
        y = scale_and_shift(x * torch.rsqrt(mean_square + eps), self.weight, self.bias)
        if self.tau is not None:
            y = torch.maximum(y, per_channel(self.tau, y))
        return y.to(input.dtype)

    def extra_repr(self) -> str:
        """Channels, and what defines the layer."""
        return (
            f"{self.num_channels}, eps={self.eps}, affine={self.weight is not None}, "
            f"learn_eps={self.learned_eps is not None}, apply_act={self.apply_act}"
        )
