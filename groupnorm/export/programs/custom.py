"""Operators of a network that are not PyTorch's, and that no runtime has."""

from __future__ import annotations

from typing import Any

import torch
from torch._ops import OpOverload

from groupnorm.counts import counted
from groupnorm.export.errors import ExportError

_KNOWN = frozenset(
    {
        "aten",
        "onnx",
        "onnx_symbolic",
        "prim",
        "prims",
        "profiler",
        "quantized",
        "quantized_decomposed",
        "torchvision",
    }
)
"""Namespaces of operators that some converter knows; of one it lacks it says so itself."""


def custom_operators(program: torch.export.ExportedProgram) -> list[str]:
    """The custom operators of a program of torch.export, as "mylib::twice", in alphabetical order.

    Those that consist of PyTorch's operators do not count: converters take them apart.
    """
    if not _overloads(program):
        return []
    overloads = _overloads(program.run_decompositions())
    return sorted({overload._schema.name for overload in overloads})


def _overloads(program: torch.export.ExportedProgram) -> list[OpOverload]:
    """The custom ones, those of branches and loops among them."""
    graphs = [
        m.graph for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule)
    ]
    targets = [node.target for graph in graphs for node in graph.nodes]
    return [t for t in targets if isinstance(t, OpOverload) and t.namespace not in _KNOWN]


def check_operators(custom: list[str]) -> None:
    """Check that a network holds no custom operators.

    Args:
        custom: their names.

    Raises:
        ExportError: it does.
    """
    if custom:
        raise ExportError(
            f"the network holds {counted(len(custom), 'custom operator')}, which no runtime has: "
            f"{', '.join(custom)}. Write it in PyTorch's operators, or leave it out"
        )


def traced_custom_operators(traced: torch.jit.ScriptModule) -> list[str]:
    """The custom operators of a network traced by torch.jit.trace, as `custom_operators`."""
    graph: Any = traced.inlined_graph
    return sorted(kind for kind in _kinds(graph) if kind.partition("::")[0] not in _KNOWN)


def _kinds(block: Any) -> set[str]:
    """Those of a block's nodes, and of the blocks within them."""
    kinds = set()
    for node in block.nodes():
        kinds.add(node.kind())
        for inner in node.blocks():
            kinds |= _kinds(inner)
    return kinds
