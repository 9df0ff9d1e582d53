"""What the rewritings of programs share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

SPATIAL = (2, 3)
"""The axes of the positions of (N, C, H, W)."""


def module_of(program: torch.export.ExportedProgram) -> fx.GraphModule:
    """The program's module."""
    module = program.module()
    assert isinstance(module, fx.GraphModule)
    return module


def functional_module(program: torch.export.ExportedProgram) -> fx.GraphModule:
    """The program's module, without operators that write into their input: views are values there.

    Its operators are those of the program; only such that decompose by themselves may change.
    """
    return module_of(program.run_decompositions({}))


def rewrite(module: fx.GraphModule, *rewritings: Callable[[fx.GraphModule], bool]) -> bool:
    """Rewrite a module by one function after the other; whether any found something."""
    found = [one(module) for one in rewritings]
    module.graph.eliminate_dead_code()
    module.recompile()
    return any(found)


def calls(module: fx.GraphModule, targets: Sequence[Any]) -> list[fx.Node]:
    """The calls of some operators, in their order."""
    return [n for n in module.graph.nodes if n.op == "call_function" and n.target in targets]


def given(node: fx.Node) -> tuple[Any, ...]:
    """The arguments of a call, without torch's type for all that they may be."""
    return node.args


def values_of(module: fx.GraphModule, node: fx.Node) -> Tensor:
    """What a node `get_attr` stands for."""
    value: Any = module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    assert isinstance(value, Tensor)
    return value


def constant(module: fx.GraphModule, values: Tensor) -> fx.Node:
    """A node of new values, at the beginning of the graph."""
    name = f"rewritten_constant_{sum(1 for _ in module.buffers())}"
    module.register_buffer(name, values)
    with module.graph.inserting_before(next(iter(module.graph.nodes))):
        node = module.graph.get_attr(name)
    node.meta["val"] = values
    return node
