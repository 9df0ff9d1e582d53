"""Convolutions with standardized weights (Qiao et al., arXiv 1903.10520)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groupnorm.layers.fx_leaf import FxLeaf
from groupnorm.ops.group_norm.reference import statistics_dtype

# form -> its eps; the formulas stand in `standardize`
WS_FORMS: dict[str, float] = {"timm": 1e-6, "bit": 1e-10, "original": 1e-5}
"""The forms of eps in use, by where their weights come from, and the eps of each."""


def standardize(
    weight: Tensor,
    form: str = "timm",
    eps: float | None = None,
    *,
    transposed_groups: int | None = None,
) -> Tensor:
    """Every output channel's filter with mean 0 and, up to eps, variance 1; same shape.

    A filter w of fan-in many values becomes, in the three forms in use::

        timm, bit   (w - mean(w)) / sqrt(biased var(w) + eps)     eps 1e-6, 1e-10
        original    (w - mean(w)) / (unbiased std(w) + eps)       eps 1e-5

    A filter of equal values gives zeros, never NaN, in value and gradient. Half weights are
    standardized in float32.

    Args:
        weight: (out_channels, in_channels / groups, *kernel), or, of a transposed convolution,
            (in_channels, out_channels / groups, *kernel).
        form: "timm", "bit" (Kolesnikov et al., arXiv 1912.11370) or "original" (the authors'
            code).
        eps: None takes the form's.
        transposed_groups: for a transposed convolution its `groups`.

    Raises:
        ValueError: unknown form, eps outside (0, 1), or filters of one weight.
    """
    eps = check_form(form, eps)
    w = weight.to(statistics_dtype(weight.dtype))
    if transposed_groups is None:
        axes = tuple(range(1, w.dim()))
    else:
        # (groups, in / groups, out / groups, *kernel)
        w = w.view(transposed_groups, -1, *w.shape[1:])
        axes = (1, *range(3, w.dim()))
    if _fan_in(weight, transposed_groups) == 1:
        raise ValueError(
            "a filter of one weight is standardized to 0, got weights of shape "
            f"{tuple(weight.shape)}; leave this convolution as it is"
        )
    centred = w - w.mean(axes, keepdim=True)
    if form == "original":
        w = centred / (centred.std(axes, keepdim=True) + eps)
    else:
        w = centred * torch.rsqrt(centred.var(axes, correction=0, keepdim=True) + eps)
    return w.view(weight.shape).to(weight.dtype)


def check_form(form: str, eps: float | None) -> float:
    """The eps to use: the one given, or the form's.

    Raises:
        ValueError: unknown form, or eps outside (0, 1).
    """
    if form not in WS_FORMS:
        raise ValueError(
            f"unknown form of weight standardization {form!r}; known: {', '.join(WS_FORMS)}"
        )
    eps = WS_FORMS[form] if eps is None else eps
    if not 0 < eps < 1:
        raise ValueError(f"eps must lie between 0 and 1, got {eps}")
    return eps


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
        standardize(self.weight.detach().to("meta"), ws_form, ws_eps, transposed_groups=self._group)

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


def _fan_in(weight: Tensor, transposed_groups: int | None) -> int:
    inputs, kernel = weight.shape[1], weight.shape[2:].numel()
    if transposed_groups is not None:
        inputs = weight.shape[0] // transposed_groups
    return inputs * kernel
