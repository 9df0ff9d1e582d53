"""Networks as programs of `torch.export`, which most converters read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import is_concrete_int

from groupnorm.export.errors import ExportError
from groupnorm.export.runtimes.quiet import first, quiet


def exported(
    network: nn.Module,
    example: tuple[Tensor, ...],
    dynamic: Sequence[int] = (),
    *,
    growth: int | None = None,
) -> torch.export.ExportedProgram:
    """The network as a program.

    Args:
        network: prepared, in evaluation mode.
        example: its inputs.
        dynamic: axes of every input of enough axes that may have another size.
        growth: how many times the example's size (2 in the place of 1) they may have, for runtimes
            that reserve memory ahead; None for any size.

    Raises:
        ExportError: the network cannot be traced, or fixes the size of a dynamic axis.
    """
    example = varied(example, dynamic)
    shapes = tuple(
        {axis: _size(tensor.shape[axis], growth) for axis in dynamic if axis < tensor.dim()}
        for tensor in example
    )
    with quiet():
        try:
            program = torch.export.export(
                network, example, dynamic_shapes=shapes if dynamic else None, strict=False
            )
        except Exception as error:
            raise ExportError(
                f"torch.export cannot trace the network: {type(error).__name__}: {first(error)}"
            ) from error
    _check_dynamic(program, example, dynamic)
    return program


def _size(size: int, growth: int | None) -> Any:
    auto = torch.export.Dim.AUTO
    return auto if growth is None else auto(max=growth * size)


def varied(example: tuple[Tensor, ...], dynamic: Sequence[int]) -> tuple[Tensor, ...]:
    """The example with dynamic axes of size 1 doubled: torch.export takes 1 for a constant."""
    tensors = []
    for tensor in example:
        for axis in dynamic:
            if axis < tensor.dim() and tensor.shape[axis] == 1:
                tensor = torch.cat([tensor, tensor], axis)
        tensors.append(tensor)
    return tuple(tensors)


def _check_dynamic(
    program: torch.export.ExportedProgram, example: tuple[Tensor, ...], dynamic: Sequence[int]
) -> None:
    if not dynamic:
        return
    names = program.graph_signature.user_inputs
    shapes = {
        node.name: node.meta["val"].shape for node in program.graph.nodes if node.name in names
    }
    for name, tensor in zip(names, example, strict=True):
        for axis in dynamic:
            if axis < tensor.dim() and is_concrete_int(shapes[str(name)][axis]):
                raise ExportError(
                    f"dynamic={tuple(dynamic)}: the network works for size "
                    f"{shapes[str(name)][axis]} of axis {axis} of its input {name} alone; leave "
                    "out that axis"
                )
