"""Convolutions with standardized weights (Qiao et al., arXiv 1903.10520)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class WSConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` whose filters are standardized before use; same keys.

    Each output channel's filter w of in_channels / groups * kh * kw values becomes
    (w - mean(w)) / sqrt(var(w) + eps) with the biased variance. The gradient flows through. eps
    inside the root is one of three forms in use (the original adds 1e-5 to the standard
    deviation); a filter of equal values gives zeros, never NaN.

    Args:
        ws_eps: added to the variance of a filter's weights, inside the root.
    """

    def __init__(self, *args: Any, ws_eps: float = 1e-6, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not 0 < ws_eps < 1:
            raise ValueError(f"ws_eps must lie between 0 and 1, got {ws_eps}")
        if self.weight[0].numel() == 1:
            raise ValueError(
                "a filter of one weight is standardized to 0, got weights of shape "
                f"{tuple(self.weight.shape)}; use torch.nn.Conv2d for them"
            )
        self.ws_eps = ws_eps

    def forward(self, input: Tensor) -> Tensor:
        """The convolution of `input` with the standardized weights."""
        output: Tensor = self._conv_forward(input, standardize(self.weight, self.ws_eps), self.bias)
        return output

    def extra_repr(self) -> str:
        """Torch's fields and ws_eps."""
        fields: str = super().extra_repr()  # type: ignore[no-untyped-call]
        return f"{fields}, ws_eps={self.ws_eps}"


def standardize(weight: Tensor, eps: float) -> Tensor:
    """Every slice weight[i] with mean 0 and, up to eps, biased variance 1; same shape."""
    axes = tuple(range(1, weight.dim()))
    var, mean = torch.var_mean(weight, axes, correction=0, keepdim=True)
    return (weight - mean) * torch.rsqrt(var + eps)
