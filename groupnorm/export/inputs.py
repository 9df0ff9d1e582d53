"""What an export is run on: the example, noise far from zero, and other sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from groupnorm.export.errors import ExportError

OFFSETS = (0, 10, 100, 1_000)
"""Means of the noise, in units of the example's spread."""


class Inputs(NamedTuple):
    """What a network is run on.

    Attributes:
        name: for tables.
        tensors: one for each argument.
    """

    name: str
    tensors: tuple[Tensor, ...]


def example_of(example: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The arguments of a call, as contiguous tensors on the CPU.

    Raises:
        ExportError: they are no tensors, or hold nothing.
    """
    tensors = (example,) if isinstance(example, Tensor) else tuple(example)
    if not tensors:
        raise ExportError("the example must be a tensor, or one for each argument, got none")
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise ExportError(
                f"the example must be a tensor, or one for each argument of the network, got "
                f"{type(tensor).__name__}"
            )
        if tensor.numel() == 0:
            raise ExportError(f"the example holds nothing: shape {tuple(tensor.shape)}")
    # copies: a network may write into its inputs
    return tuple(tensor.detach().to("cpu", copy=True).contiguous() for tensor in tensors)


def dynamic_axes(dynamic: object) -> tuple[int, ...]:
    """The axes that may change, as numbers.

    Raises:
        ExportError: it is no sequence of whole numbers.
    """
    if isinstance(dynamic, (list, tuple)) and all(type(axis) is int for axis in dynamic):
        return tuple(dynamic)
    raise ExportError(f"dynamic must be a tuple of axes, as (0, 2, 3), got {dynamic!r}")


def check_dynamic(example: tuple[Tensor, ...], dynamic: Sequence[int], allowed: str) -> None:
    """Check the axes that are to change.

    Args:
        allowed: "any" but the channels, "positions" or "nothing", as in `targets.Target.dynamic`.

    Raises:
        ExportError: an axis that no input has, that of the channels, or one that the runtime has
            fixed.
    """
    most = max(tensor.dim() for tensor in example)
    for axis in dynamic:
        if not 0 <= axis < most:
            raise ExportError(
                f"dynamic={tuple(dynamic)}: the example has axes 0 to {most - 1}, got {axis}"
            )
        if axis == 1:
            raise ExportError(
                f"dynamic={tuple(dynamic)}: axis 1 is that of the channels, whose number the "
                "weights fix; leave it out"
            )
        if allowed == "nothing" or (allowed == "positions" and axis == 0):
            kept = "has fixed sizes" if allowed == "nothing" else "has a fixed axis 0"
            raise ExportError(f"dynamic={tuple(dynamic)}: a network of this runtime {kept}")


def inputs_to_run(example: tuple[Tensor, ...], dynamic: Sequence[int]) -> list[Inputs]:
    """The example, noise around multiples of its spread, and the noise in other sizes.

    Integers, as of timesteps, are those of the example everywhere.

    Args:
        example: float32 or whole numbers.
        dynamic: axes that may change: another batch has one image more, positions are doubled.
    """
    found = [Inputs("example", example)]
    found += [Inputs(f"offset {offset:,}", noise(example, offset)) for offset in OFFSETS]
    if dynamic:
        other = noise(tuple(_resized(tensor, dynamic) for tensor in example), 0)
        shape = " x ".join(map(str, other[0].shape))
        found.append(Inputs(f"shape {shape}", other))
    return found


def noise(example: tuple[Tensor, ...], offset: float) -> tuple[Tensor, ...]:
    """Normal numbers of the example's spread around `offset` times that; always the same."""
    generator = torch.Generator().manual_seed(0)
    tensors = []
    for tensor in example:
        if tensor.is_floating_point():
            spread = float(tensor.double().std(correction=0)) or 1.0
            drawn = torch.randn(tensor.shape, generator=generator)
            tensors.append(((drawn + offset) * spread).to(tensor.dtype))
        else:
            tensors.append(tensor)
    return tuple(tensors)


def _resized(tensor: Tensor, dynamic: Sequence[int]) -> Tensor:
    for axis in dynamic:
        if axis < tensor.dim():
            more = tensor.narrow(axis, 0, 1) if axis == 0 else tensor
            tensor = torch.cat([tensor, more], axis)
    return tensor
