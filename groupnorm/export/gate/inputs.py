"""What an export is run on: the example, noise far from zero, and other sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        optional: whether the network need not be for it: noise, and sizes that are no multiples.
    """

    name: str
    tensors: tuple[Tensor, ...]
    optional: bool = False


def example_of(example: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The arguments of a call, as contiguous tensors on the CPU.

    Raises:
        ExportError: they are no tensors, or hold nothing.
    """
    tensors = tuple(example) if isinstance(example, list | tuple) else (example,)
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
        if tensor.is_meta or tensor.layout is not torch.strided:
            raise ExportError(f"the example must hold values in a dense tensor, got {tensor!r}")
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


def axes_of(tensors: Sequence[Tensor], dynamic: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Of each input the axes that may change: those of `dynamic` that it has; () if none may."""
    if not dynamic:
        return ()
    return tuple(tuple(axis for axis in dynamic if axis < t.dim()) for t in tensors)


def inputs_to_run(
    example: tuple[Tensor, ...], dynamic: Sequence[int], dtype: torch.dtype
) -> list[Inputs]:
    """The example, numbers drawn from it in other sizes where axes may change, and noise.

    The noise lies around multiples of the example's spread, and is infinite where the dtype has no
    such numbers. There is none where all inputs are whole numbers.

    Noise leaves integers, as of timesteps, as they are in the example.

    Args:
        example: float32 or whole numbers.
        dynamic: axes that may change. Another batch has one image more. Positions are doubled, and
            grow by 1, 3 and 5, for a network may be right for multiples or squares alone.
        dtype: of the network, which its floating-point inputs get.
    """
    found = [Inputs("example", example)]
    if dynamic:
        found.append(_of_other_sizes(example, dynamic, lambda axis, size: 2 * size))
    if any(axis >= 2 for axis in dynamic):
        odd = _of_other_sizes(example, dynamic, lambda axis, size: size + 2 * axis - 3)
        found.append(odd._replace(optional=True))
    if any(tensor.is_floating_point() for tensor in example):
        found += [Inputs(f"offset {offset:,}", noise(example, offset), True) for offset in OFFSETS]
    return [_as_dtype(one, dtype) for one in found]


def _as_dtype(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    tensors = tuple(t.to(dtype) if t.is_floating_point() else t for t in inputs.tensors)
    return inputs._replace(tensors=tensors)


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


def _of_other_sizes(
    example: tuple[Tensor, ...], dynamic: Sequence[int], size_of: Callable[[int, int], int]
) -> Inputs:
    """Numbers drawn from the example, one image more, with positions of other sizes.

    Args:
        size_of: from the number of an axis and its size to another size.
    """
    tensors = []
    for tensor, axes in zip(example, axes_of(example, dynamic), strict=True):
        shape = list(tensor.shape)
        for axis in axes:
            shape[axis] = shape[axis] + 1 if axis == 0 else size_of(axis, shape[axis])
        tensors.append(_drawn(tensor, shape))
    return Inputs(f"shape {' x '.join(map(str, tensors[0].shape))}", tuple(tensors))


def _drawn(tensor: Tensor, shape: list[int]) -> Tensor:
    """Values of a tensor in another shape, each drawn from it: what they may be, they are."""
    if shape == list(tensor.shape):
        return tensor
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(tensor.numel(), shape, generator=generator)
    return tensor.flatten()[chosen]
