"""GroupNorm, a drop-in for torch.nn.GroupNorm, and its two extremes."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from groupnorm.layers.base import FxLeaf
from groupnorm.ops.group_norm import group_norm
from groupnorm.ops.group_norm.activations import check_activation
from groupnorm.ops.group_norm.backends import check_backend
from groupnorm.ops.group_norm.memory import shape_of, traced


class GroupNorm(FxLeaf, nn.GroupNorm):
    """Group normalization over input (N, C, *) (Wu & He 2018, arXiv 1803.08494).

    Takes the place of `torch.nn.GroupNorm`: same arguments, parameters, keys and initial values.

    Args:
        num_groups: number of groups, a divisor of num_channels.
        num_channels: C.
        eps: added to the biased variance inside the root.
        affine: learn a scale and a shift per channel.
        bias: with `affine`, learn the shift; False leaves the scale alone.
        activation: applied to the result; see `groupnorm.group_norm`.
        inplace: write over the input, for inference alone: under `torch.no_grad()` or
            `torch.inference_mode()`. Compiled, exported or traced the layer leaves its input as it
            is; the values are the same.
        backend: "auto", or the name of the backend that must run.

    Raises:
        ValueError: num_channels is not a multiple of num_groups; unknown activation or backend.
        RuntimeError: when called, `inplace` while grad mode is on.
    """

    # Defaults for what is unpickled from before an attribute existed; so in the other layers.
    activation: str | None = None
    inplace: bool = False
    backend: str = "auto"

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        activation: str | None = None,
        inplace: bool = False,
        backend: str = "auto",
    ) -> None:
        if num_groups < 1 or num_channels < 1 or num_channels % num_groups:
            raise ValueError(
                f"num_channels must be a multiple of num_groups, got {num_channels} channels and "
                f"{num_groups} groups; norm_layer('gn:groups={num_groups}') picks a divisor itself"
            )
        check_activation(activation)
        check_backend(backend)
        super().__init__(num_groups, num_channels, eps, affine, device, dtype)
        if not bias:
            self.register_parameter("bias", None)
        self.activation = activation
        self.inplace = inplace
        self.backend = backend

    def reset_parameters(self) -> None:
        """Scale 1, shift 0."""
        for parameter, init in ((self.weight, nn.init.ones_), (self.bias, nn.init.zeros_)):
            if parameter is not None:
                init(parameter)

    @property
    def channels_per_group(self) -> int:
        """C / num_groups."""
        return self.num_channels // self.num_groups

    def forward(self, input: Tensor) -> Tensor:
        """activation(GN(input)), in the input's shape, dtype and memory format."""
        if isinstance(input, Tensor):  # else it is torch.fx's stand-in for one
            shape = shape_of(input)
            if len(shape) >= 2 and shape[1] != self.num_channels:
                raise ValueError(
                    f"expected input (N, {self.num_channels}, *), got {tuple(shape)} for {self}"
                )
            one_each = self.training and shape.numel() == shape[0] * self.num_groups > 0
            if one_each and not torch.compiler.is_compiling():
                warnings.warn(
                    f"every group of {self} holds one value of input {tuple(shape)}, so the "
                    "output is the bias whatever the input is; use fewer groups",
                    stacklevel=2,
                )
        return group_norm(
            input,
            self.num_groups,
            self.weight,
            self.bias,
            self.eps,
            activation=self.activation,
            out=self._out(input) if self.inplace else None,
            backend=self.backend,
        )

    def _out(self, input: Tensor) -> Tensor | None:
        """The input, where a program does not record what the layer does."""
        return None if torch.compiler.is_compiling() or traced() else input

    def extra_repr(self) -> str:
        """Torch's fields, the groups by name, and what differs from the defaults."""
        text = f"{super().extra_repr()}, num_groups={self.num_groups}"
        text += f", channels_per_group={self.channels_per_group}"
        if self.activation is not None:
            text += f", activation={self.activation!r}"
        if self.inplace:
            text += ", inplace=True"
        if self.backend != "auto":
            text += f", backend={self.backend!r}"
        return text


class GroupNormAct(GroupNorm):
    """GroupNorm followed by an activation, ReLU by default; keys as without the activation."""

    activation: str | None = "relu"

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        activation: str | None = "relu",
        inplace: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            num_groups,
            num_channels,
            eps,
            affine,
            device,
            dtype,
            bias=bias,
            activation=activation,
            inplace=inplace,
            backend=backend,
        )
