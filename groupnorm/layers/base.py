"""What the layers share: they are leaves of torch.fx, with one parameter value per channel."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from groupnorm.ops.group_norm.memory import shape_of


class FxLeaf:
    """A layer that torch.fx does not look into, as it does not look into those of torch.nn.

    Tracers (the default one, those of torchvision's and timm's feature extraction, of
    `prepare_fx` and of `fuse`) ask `module.__module__` and take what starts with `torch.nn` for a
    leaf. So every instance answers `torch.nn`. The class keeps its own `__module__`, which pickle
    and repr go by, and calls cost nothing more. Subclasses are leaves too.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """An instance whose own `__module__` is torch.nn, also when it is unpickled."""
        self = super().__new__(cls)
        self.__dict__["__module__"] = "torch.nn"
        return self


def affine_parameters(
    layer: nn.Module,
    num_channels: int,
    affine: bool,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> None:
    """Register `weight` and `bias` of shape (C,) in the layer, or None without `affine`."""
    for name in ("weight", "bias"):
        values = torch.empty(num_channels, device=device, dtype=dtype) if affine else None
        layer.register_parameter(name, None if values is None else nn.Parameter(values))


def fill_parameters(layer: nn.Module, **values: float) -> None:
    """Fill each named parameter that the layer has with its value."""
    for name, value in values.items():
        parameter = getattr(layer, name)
        if parameter is not None:
            nn.init.constant_(parameter, value)


def check_channels(input: Tensor, num_channels: int, layer: nn.Module) -> None:
    """Raise ValueError unless the input is (N, num_channels, *)."""
    shape = shape_of(input)
    if len(shape) < 2 or shape[1] != num_channels:
        raise ValueError(f"expected input (N, {num_channels}, *), got {tuple(shape)} for {layer}")
