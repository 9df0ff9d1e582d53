"""Programs rewritten in operators that XNNPACK has, so that it gets the whole network.

Each piece that is left outside costs more than its own time: XNNPACK works channels last, so that
what goes in and out is transposed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import is_concrete_int

from groupnorm.export.programs.graphs import (
    SPATIAL,
    calls,
    constant,
    given,
    module_of,
    rewrite,
    values_of,
)
from groupnorm.export.programs.slices import without_slices

_LEAST_POSITIONS = 512  # from which on spreading pays, measured with 16 to 256 channels
_LONGEST_ROW = 4096  # values; longer ones leave the processor's first cache
_BROADCASTING = (torch.ops.aten.add.Tensor, torch.ops.aten.sub.Tensor, torch.ops.aten.mul.Tensor)
_PADS = (torch.ops.aten.pad.default, torch.ops.aten.constant_pad_nd.default)
_VIEWS = (torch.ops.aten.view.default, torch.ops.aten.reshape.default)


def gelu_written_out(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program with GELU's approximation by tanh in elementary operators.

    ExecuTorch has XNNPACK compute the exact GELU in its place.
    """
    return _decomposed(program, torch.ops.aten.gelu.default, _gelu)


def means_with_axes(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program with means over positions that keep their axes, and a view.

    ExecuTorch gives XNNPACK no others, and LiteRT transposes first what it takes others of; of
    these it still does where little comes before.
    """
    return _decomposed(program, torch.ops.aten.mean.dim, _mean)


def _decomposed(
    program: torch.export.ExportedProgram, operator: Any, function: Any
) -> torch.export.ExportedProgram:
    rewritten: torch.export.ExportedProgram = program.run_decompositions({operator: function})
    return rewritten


def _gelu(x: Tensor, *, approximate: str = "none") -> Any:
    if approximate != "tanh":
        return NotImplemented
    z = x.float()
    inner = math.sqrt(2 / math.pi) * (z + 0.044715 * z * z * z)
    # 1 as a whole number would be a tensor of its own, converted at run time.
    return (0.5 * z * (1.0 + torch.tanh(inner))).to(x.dtype)


def _mean(
    x: Tensor,
    dim: Sequence[int] | None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Any:
    over_positions = dim is not None and sorted(axis % x.dim() for axis in dim) == [*SPATIAL]
    if keepdim or x.dim() != 4 or dtype is not None or not over_positions:
        return NotImplemented
    return x.mean(SPATIAL, keepdim=True).view(-1, x.shape[1])


def rewritten(program: torch.export.ExportedProgram) -> fx.GraphModule | None:
    """The program's module with the same finite numbers, in what XNNPACK has, or computes faster.

    Args:
        program: without operators that write into their input, as it is after decompositions.

    Returns:
        None where there is nothing to rewrite.
    """
    module = module_of(program)
    found = rewrite(module, views_of_constants, without_slices, spread_over_rows)
    return module if found else None


def pads_of_channels_joined(module: fx.GraphModule) -> bool:
    """Join constant channels to a map in the place of padding it, which LiteRT transposes first.

    Returns:
        whether there were any.
    """
    graph, found = module.graph, False
    for node in calls(module, _PADS):
        source, widths, *others = given(node)
        value = source.meta["val"]
        mode = "constant"
        if node.target is torch.ops.aten.pad.default and others:
            mode, *others = others
        filling: Any = node.kwargs.get("value", others[0] if others else None) or 0.0
        sizes = [*value.shape, *widths]
        if mode != "constant" or value.dim() != 4 or not all(map(is_concrete_int, sizes)):
            continue
        if len(widths) != 6 or any(widths[:4]) or min(widths[4:]) < 0:
            continue
        batch, _, height, width = value.shape
        joined = [
            constant(module, torch.full((batch, n, height, width), filling, dtype=value.dtype))
            if n
            else None
            for n in widths[4:]
        ]
        joined.insert(1, source)
        with graph.inserting_before(node):
            replacement = graph.call_function(
                torch.ops.aten.cat.default, ([one for one in joined if one is not None], 1)
            )
        replacement.meta = dict(node.meta)
        node.replace_all_uses_with(replacement)
        graph.erase_node(node)
        found = True
    return found


def views_of_constants(module: fx.GraphModule) -> bool:
    """Make views of parameters and buffers ahead; XNNPACK would copy each in every call.

    Returns:
        whether there were any.
    """
    found = False
    for node in calls(module, _VIEWS):
        source, shape = given(node)[:2]
        if source.op != "get_attr" or not all(isinstance(size, int) for size in shape):
            continue
        values = values_of(module, source).detach().reshape(shape).clone()
        node.replace_all_uses_with(constant(module, values))
        module.graph.erase_node(node)
        found = True
    return found


def spread_over_rows(module: fx.GraphModule) -> bool:
    """Give sums and products of a map with one value a channel that value all along a row.

    XNNPACK calls its kernel once for as many values as lie in one piece in both operands: with
    (N, C, 1, 1) for each position, with (N, C, 1, W) for each row. With 16 channels on 32 x 32
    positions that is a third of the time, with the spreading itself, a product by ones.

    Returns:
        whether there were any.
    """
    graph = module.graph
    rows: dict[tuple[fx.Node, int], fx.Node] = {}
    for node in calls(module, _BROADCASTING):
        if len(node.args) != 2 or node.kwargs:
            continue
        shape = node.meta["val"].shape
        if len(shape) != 4 or not all(is_concrete_int(size) for size in shape[1:]):
            continue
        channels, height, width = (int(size) for size in shape[1:])
        if height * width < _LEAST_POSITIONS or channels * width > _LONGEST_ROW:
            continue
        for index, small in enumerate(given(node)):
            if not _one_per_channel(small, channels):
                continue
            if (small, width) not in rows:
                ones = torch.ones(1, channels, 1, width, dtype=small.meta["val"].dtype)
                if small.op == "get_attr":
                    row = constant(module, values_of(module, small).detach() * ones)
                else:
                    factor = constant(module, ones)
                    with graph.inserting_after(small):
                        row = graph.call_function(torch.ops.aten.mul.Tensor, (small, factor))
                rows[small, width] = row
            node.update_arg(index, rows[small, width])
    return bool(rows)


def _one_per_channel(operand: Any, channels: int) -> bool:
    """Whether it is a node of shape (N, C, 1, 1), or (1, C, 1, 1), with numbers with a point."""
    value = operand.meta.get("val") if isinstance(operand, fx.Node) else None
    return (
        isinstance(value, Tensor)
        and value.dtype.is_floating_point
        and value.dim() == 4
        and all(is_concrete_int(size) for size in value.shape[1:])
        and list(value.shape[1:]) == [channels, 1, 1]
    )
