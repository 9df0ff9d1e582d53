"""Networks as programs of `torch.export`, which most converters read."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import is_concrete_int

from groupnorm.export.errors import ExportError
from groupnorm.export.programs.custom import check_operators, custom_operators
from groupnorm.export.runtimes.quiet import first, quiet

_ANY_SIZE = 2**16  # a program's bound on a size from which on it is none
Axes = Sequence[Sequence[int]]
"""Of each input the axes whose size may change; empty where no input has any."""


def exported(
    network: nn.Module,
    example: tuple[Tensor, ...],
    dynamic: Axes = (),
    *,
    growth: int | None = None,
) -> torch.export.ExportedProgram:
    """The network as a program.

    Args:
        network: prepared, in evaluation mode.
        example: its inputs.
        dynamic: of each input the axes that may have another size; empty where none has any.
        growth: how many times the example's size (2 in the place of 1) they may have, for runtimes
            that reserve memory ahead; None for any size.

    Raises:
        ExportError: the network cannot be traced, asks for the size of a dynamic axis and does
            something else for another, or holds a custom operator.
    """
    dynamic = dynamic or [()] * len(example)
    example = varied(example, dynamic)
    shapes = tuple(
        {axis: _size(tensor.shape[axis], growth) for axis in axes}
        for tensor, axes in zip(example, dynamic, strict=True)
    )
    with quiet():
        try:
            program = torch.export.export(
                network, example, dynamic_shapes=_like_arguments(network, shapes), strict=False
            )
        except Exception as error:
            raise ExportError(
                f"torch.export cannot trace the network: {type(error).__name__}: {first(error)}"
            ) from error
    _check_dynamic(program, network, example, dynamic, growth)
    check_operators(custom_operators(program))
    return program


def _like_arguments(network: nn.Module, shapes: tuple[Any, ...]) -> tuple[Any, ...]:
    """The shapes of the inputs, those of `*inputs` as one, as torch.export takes them."""
    kinds = [one.kind for one in signature(network.forward).parameters.values()]
    if Parameter.VAR_POSITIONAL not in kinds:
        return shapes
    named = kinds.index(Parameter.VAR_POSITIONAL)
    return (*shapes[:named], shapes[named:])


def _size(size: int, growth: int | None) -> Any:
    auto = torch.export.Dim.AUTO
    return auto if growth is None else auto(max=growth * size)


def varied(example: tuple[Tensor, ...], dynamic: Axes) -> tuple[Tensor, ...]:
    """The example with dynamic axes of size 1 doubled: torch.export takes 1 for a constant."""
    tensors = list(example)
    for number, axes in enumerate(dynamic):
        for axis in axes:
            if tensors[number].shape[axis] == 1:
                tensors[number] = torch.cat([tensors[number]] * 2, axis)
    return tuple(tensors)


def _check_dynamic(
    program: torch.export.ExportedProgram,
    network: nn.Module,
    example: tuple[Tensor, ...],
    dynamic: Axes,
    growth: int | None,
) -> None:
    """Check that a program holds for the sizes that its network runs with.

    Python code that asks for a size is run once, and holds for what gave the same answer: for one
    size, for multiples, or up to some size.
    """
    names = program.graph_signature.user_inputs
    shapes = {
        node.name: node.meta["val"].shape for node in program.graph.nodes if node.name in names
    }
    for number, (name, axes) in enumerate(zip(names, dynamic, strict=True)):
        for axis in axes:
            size = shapes[str(name)][axis]
            if is_concrete_int(size):
                known = f"size {size}"
            else:
                other = _size_outside(program, size, example[number].shape[axis], growth)
                if other is None or not _runs(network, example, number, axis, other):
                    continue
                known = f"some sizes, and not for {other},"
            raise ExportError(
                f"the network's program holds for {known} of axis {axis} of its input {name} "
                "alone: its code asks for that size. Leave the axis out of dynamic=..."
            )


def _size_outside(
    program: torch.export.ExportedProgram, size: Any, of_example: int, growth: int | None
) -> int | None:
    """A size that a program was not made for, near to those that it was; None if it has no bound.

    Of the lower bounds of sizes, which torch.export has of its own, too, none is looked at.
    """
    symbol = size.node.expr
    if not symbol.is_symbol:  # as multiples are
        return of_example + 1
    bounds = program.range_constraints.get(symbol)
    largest = _ANY_SIZE if growth is None else growth * of_example
    return None if bounds is None or bounds.upper >= largest else int(bounds.upper) + 1


def _runs(
    network: nn.Module, example: tuple[Tensor, ...], number: int, axis: int, size: int
) -> bool:
    """Whether a network runs with another size of one axis of one input."""
    tensors = [tensor.clone() for tensor in example]
    chosen = torch.arange(size) % tensors[number].shape[axis]
    tensors[number] = tensors[number].index_select(axis, chosen)
    try:
        with torch.no_grad():
            network(*tensors)
    except Exception:
        return False
    return True
