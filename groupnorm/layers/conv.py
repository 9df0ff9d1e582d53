"""Convolutions with standardized weights (Qiao et al., arXiv 1903.10520), and scaled ones."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groupnorm.layers.base import FxLeaf
from groupnorm.ops.group_norm.activations import activate, check_activation
from groupnorm.ops.weight_standardization import (
    WS_FORMS,
    check_filters,
    check_form,
    standardize,
)


class _Standardized(FxLeaf, nn.Module):
    """What the six convolutions below add to PyTorch's: the form, its eps, and the weight."""

    weight: Tensor
    groups: int
    transposed: bool
    ws_form: str = "timm"
    ws_eps: float = WS_FORMS["timm"]

    def __init__(
        self, *args: Any, ws_form: str = "timm", ws_eps: float | None = None, **kwargs: Any
    ) -> None:
        ws_eps = check_form(ws_form, ws_eps)
        super().__init__(*args, **kwargs)
        self.ws_form = ws_form
        self.ws_eps = ws_eps
        check_filters(self.weight, self._group)

    @property
    def _group(self) -> int | None:
        return self.groups if self.transposed else None

    def standardized_weight(self) -> Tensor:
        """The weight that the convolution uses, of the shape of `weight`."""
        return standardize(self.weight, self.ws_form, self.ws_eps, transposed_groups=self._group)

    def extra_repr(self) -> str:
        """Torch's fields and the form."""
        fields: str = super().extra_repr()
        return f"{fields}, ws_form={self.ws_form!r}, ws_eps={self.ws_eps}"


class WSConv1d(_Standardized, nn.Conv1d):
    """`torch.nn.Conv1d` with standardized filters; see `WSConv2d`."""

    def forward(self, input: Tensor) -> Tensor:
        """The convolution of `input` with the standardized weights."""
        output: Tensor = self._conv_forward(input, self.standardized_weight(), self.bias)
        return output


class WSConv2d(_Standardized, nn.Conv2d):
    """`torch.nn.Conv2d` whose filters are standardized before use; same arguments and keys.

    The gradient flows through the standardization (`standardize`).

    Args:
        ws_form: where eps goes and how large it is: "timm", "bit" or "original".
        ws_eps: eps; None takes the form's.

    Raises:
        ValueError: unknown form, eps outside (0, 1), or filters of one weight.
    """

    def forward(self, input: Tensor) -> Tensor:
        """The convolution of `input` with the standardized weights."""
        output: Tensor = self._conv_forward(input, self.standardized_weight(), self.bias)
        return output


class WSConv3d(_Standardized, nn.Conv3d):
    """`torch.nn.Conv3d` with standardized filters; see `WSConv2d`."""

    def forward(self, input: Tensor) -> Tensor:
        """The convolution of `input` with the standardized weights."""
        output: Tensor = self._conv_forward(input, self.standardized_weight(), self.bias)
        return output


class _StandardizedTransposed(_Standardized):
    """A transposed convolution with standardized weights, in any number of dimensions."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """The transposed convolution of `input` with the standardized weights."""
        conv: Any = self
        dims = self.weight.dim() - 2
        output_padding = conv._output_padding(
            input, output_size, conv.stride, conv.padding, conv.kernel_size, dims, conv.dilation
        )
        convolve = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dims - 1]
        return convolve(
            input, self.standardized_weight(), conv.bias,
            conv.stride, conv.padding, output_padding, self.groups, conv.dilation,
        )  # fmt: skip


class WSConvTranspose1d(_StandardizedTransposed, nn.ConvTranspose1d):
    """`torch.nn.ConvTranspose1d` with standardized filters; see `WSConvTranspose2d`."""


class WSConvTranspose2d(_StandardizedTransposed, nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d` with standardized filters; arguments as in `WSConv2d`.

    The filter of an output channel holds, as in a convolution, the weights that reach it: those of
    all input channels of its group and of all positions of the kernel.
    """


class WSConvTranspose3d(_StandardizedTransposed, nn.ConvTranspose3d):
    """`torch.nn.ConvTranspose3d` with standardized filters; see `WSConvTranspose2d`."""


class ScaledWSConv2d(FxLeaf, nn.Conv2d):
    """Scaled weight standardization (Brock et al. 2021, arXiv 2101.08692, equations 4 and 5).

    A filter w of fan-in n becomes gain * gamma / sqrt(n) * (w - mean(w)) / sqrt(var(w) + eps), with
    the biased variance, a learned `gain` per output channel (from 1), and gamma =
    `activation_gain(activation)`. With independent inputs of unit variance before that activation,
    each output has unit variance in expectation. Keys `weight`, `bias` and `gain` (shape
    (out_channels, 1, 1, 1)), as in timm's ScaledStdConv2d.

    Args:
        activation: the one that made the input, a name of
            `groupnorm.ops.group_norm.activations` or None; other arguments as in
            `torch.nn.Conv2d`.
        ws_eps: added to the biased variance of a filter, inside the root.

    Raises:
        ValueError: unknown activation, eps outside (0, 1), or filters of one weight.
    """

    activation: str | None = None
    ws_eps: float = 1e-6

    def __init__(
        self, *args: Any, activation: str | None = None, ws_eps: float = 1e-6, **kwargs: Any
    ) -> None:
        gamma = activation_gain(activation)
        super().__init__(*args, **kwargs)
        self.activation = activation
        self.ws_eps = check_form("timm", ws_eps)
        check_filters(self.weight)
        self.scale = gamma / math.sqrt(self.weight[0].numel())
        self.gain = nn.Parameter(self.weight.new_ones(self.out_channels, 1, 1, 1))

    def reset_parameters(self) -> None:
        """Weight and bias as in `torch.nn.Conv2d`, gain 1."""
        super().reset_parameters()
        if hasattr(self, "gain"):  # the base class calls this before there is one
            nn.init.ones_(self.gain)

    def standardized_weight(self) -> Tensor:
        """The weight that the convolution uses, of the shape of `weight`."""
        return standardize(self.weight, "timm", self.ws_eps) * (self.gain * self.scale)

    def forward(self, input: Tensor) -> Tensor:
        """The convolution of `input` with the scaled standardized weights."""
        output: Tensor = self._conv_forward(input, self.standardized_weight(), self.bias)
        return output

    def extra_repr(self) -> str:
        """Torch's fields, the activation and ws_eps."""
        fields: str = super().extra_repr()  # type: ignore[no-untyped-call]
        return f"{fields}, activation={self.activation!r}, ws_eps={self.ws_eps}"


def activation_gain(activation: str | None) -> float:
    """gamma = 1 / sqrt(Var(f(z))) for an activation f and z ~ N(0, 1).

    For ReLU this is sqrt(2 / (1 - 1 / pi)) = 1.7129 (Brock et al. 2021, section 4.1); the tables
    of gains in use (1.7140 for ReLU) are its estimates from random samples. Computed here
    by the trapezoid rule in float64, to 1e-7.

    Raises:
        ValueError: unknown activation.
    """
    check_activation(activation)
    z = torch.linspace(-12, 12, 24_001, dtype=torch.float64, device="cpu")
    density = torch.exp(-z * z / 2)
    density = density / density.sum()
    y = activate(z, activation)
    mean = (density * y).sum()
    return float((density * (y - mean) ** 2).sum().rsqrt())
