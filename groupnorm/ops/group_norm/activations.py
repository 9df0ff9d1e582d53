"""The activations that `group_norm` can apply after the norm, and their derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

LEAKY_SLOPE = 0.01
_SQRT_2_OVER_PI = math.sqrt(2 / math.pi)
_CUBIC = 0.044715

_FORWARD: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "leaky_relu": lambda z: F.leaky_relu(z, LEAKY_SLOPE),
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"),
    "mish": F.mish,
    "hardswish": F.hardswish,
}
ACTIVATIONS: tuple[str, ...] = tuple(_FORWARD)
# What kernels know them by; 0 is none.
NUMBERS = {name: number for number, name in enumerate((None, *ACTIVATIONS))}


def check_activation(name: str | None) -> None:
    """Raise ValueError, listing the known names, unless `name` is None or one of them."""
    if name is not None and not (isinstance(name, str) and name in _FORWARD):
        raise ValueError(f"unknown activation {name!r}; known: None, {', '.join(ACTIVATIONS)}")


def activate(z: Tensor, name: str | None) -> Tensor:
    """The activation of z, same shape and dtype; None is the identity."""
    return z if name is None else _FORWARD[name](z)


def derivative(z: Tensor, name: str | None) -> Tensor:
    """The activation's derivative at z, written out in differentiable operations.

    At the kinks of relu, leaky_relu and hardswish it is PyTorch's choice: 0 for relu and the
    slope for leaky_relu at 0; for hardswish 0 at -3 and 1 at 3.
    """
    if name is None:
        return torch.ones_like(z)
    if name == "relu":
        return (z > 0).to(z.dtype)
    if name == "leaky_relu":
        return torch.where(z > 0, torch.ones_like(z), LEAKY_SLOPE)
    if name == "silu":
        s = torch.sigmoid(z)
        return s * (1 + z * (1 - s))
    if name == "gelu":
        density = torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
        return 0.5 * (1 + torch.erf(z / math.sqrt(2))) + z * density
    if name == "gelu_tanh":
        t = torch.tanh(_SQRT_2_OVER_PI * (z + _CUBIC * z**3))
        inner = _SQRT_2_OVER_PI * (1 + 3 * _CUBIC * z * z)
        return 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * inner
    if name == "mish":
        t = torch.tanh(F.softplus(z))
        return t + z * torch.sigmoid(z) * (1 - t * t)
    if name == "hardswish":
        middle = (2 * z + 3) / 6
        return torch.where(z <= -3, 0.0, torch.where(z < 3, middle, 1.0))
    raise AssertionError(name)
