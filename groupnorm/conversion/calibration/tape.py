"""A network as a list of operations, which runs in pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map

from groupnorm.conversion.calibration.batches import Call
from groupnorm.conversion.constants.producers import LINEAR_LAYERS
from groupnorm.conversion.example import tensors_in
from groupnorm.conversion.sources import is_norm
from groupnorm.files import first_line

_TOLERANCE = 1e-5  # of the largest output: operations of one kind may sum in another order


class Untraceable(Exception):  # noqa: N818  # a reason to go another way, not an error
    """Why a network cannot be run in pieces."""


class Holder(nn.Module):
    """A network below a root that stays, so that the network itself can be replaced.

    Attributes:
        model: the network.
        call: how it is called, for `forward`.
    """

    call: Call

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tensors: Any) -> Any:
        """The network's output on the tensors of a call like `call`."""
        args, kwargs = self.call.arguments(tensors)
        return self.model(*args, **kwargs)


def held_name(name: str) -> str:
    """The name below a `Holder` of what the network has by this name."""
    return f"model.{name}" if name else "model"


class _Tracer(fx.Tracer):
    """Follows a network down to norms, linear layers and what cannot be followed.

    Args:
        norms: a module that has one of these below it must be followed.
    """

    def __init__(self, norms: Iterable[nn.Module]) -> None:
        super().__init__()
        self._norms = set(norms)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether the module's run is one operation."""
        linear = isinstance(m, LINEAR_LAYERS)
        return linear or is_norm(m) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """The module's result, of the operations within it or of one that is all of it."""
        last = next(iter(reversed(self.graph.nodes)))
        stack = dict(self.module_stack)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            if self._norms.intersection(m.modules()):
                raise
            for node in reversed(list(self.graph.nodes)):
                if node is last:
                    break
                self.graph.erase_node(node)
            self.module_stack.clear()  # the modules that are being followed
            self.module_stack.update(stack)
            return self.create_proxy("call_module", self.path_of_module(m), args, kwargs)


class Tape:
    """The operations of a network in the order in which they run, and what lives between them.

    Tensors that the network makes itself, of numbers, are constants of the tape.

    Attributes:
        nodes: the operations.
        at: the position of each.
    """

    def __init__(self, root: Holder, norms: Iterable[nn.Module]) -> None:
        own = set(vars(root))
        try:
            self._graph = _Tracer(norms).trace(root)
        except Exception as error:  # the network's code meets stand-ins for tensors
            why = first_line(error).partition(". ")[0]
            raise Untraceable(f"torch.fx cannot follow it ({why})") from error
        finally:  # fx gives them to the root of the one network that it followed
            self._constants = {key: vars(root).pop(key) for key in set(vars(root)) - own}
        self._order()

    def _order(self) -> None:
        self.nodes = list(self._graph.nodes)
        self.at = {node: i for i, node in enumerate(self.nodes)}
        self._last_use = {
            node: max((self.at[user] for user in node.users), default=-1) for node in self.nodes
        }

    def calls_of(self, name: str) -> list[fx.Node]:
        """The operations that are a module's runs."""
        return [n for n in self.nodes if n.op == "call_module" and n.target == name]

    def move(self, first: fx.Node, second: fx.Node) -> None:
        """Have an operation run just before another that takes its result."""
        second.prepend(first)
        self._order()

    def start(self, tensors: list[Tensor]) -> dict[str, Any]:
        """The values before the first operation, in copies, for operations may work in place."""
        placeholder = next(node for node in self.nodes if node.op == "placeholder")
        return {placeholder.name: [tensor.clone() for tensor in tensors]}

    def check(self, root: Holder, tensors: list[Tensor], stops: Iterable[int]) -> None:
        """Check that the pieces give what the network gives, on one input.

        Args:
            root: of the modules.
            tensors: of a call.
            stops: the positions between which values are held, apart from each other.

        Raises:
            Untraceable: they do not.
        """
        values, position = self.start(tensors), 0
        try:
            for stop in (*sorted(stops), len(self.nodes)):
                values = self.run(root, tree_map(copied_tensor, values), position, stop)
                position = stop
            found = list(tensors_in(self.output(values)))
            expected = list(tensors_in(root(tensors)))
        except Exception as error:  # as above
            raise Untraceable(first_line(error)) from error
        if len(found) != len(expected) or not all(map(same, found, expected)):
            raise Untraceable("its operations one by one give another output")

    def run(self, root: nn.Module, values: dict[str, Any], start: int, stop: int) -> dict[str, Any]:
        """The values that live before operation `stop`.

        Args:
            root: the modules' root; they are found by name when they run.
            values: those that live before operation `start`; they are used up.
            start: the first operation to run.
            stop: the operation before which it stops.
        """

        def value_of(node: fx.Node) -> Any:
            if node.op == "get_attr":  # never held, for the network has it
                name = str(node.target)
                constant = self._constants.get(name)
                return _attribute(root, name) if constant is None else constant.clone()
            return values[node.name]

        for position in range(start, stop):
            node = self.nodes[position]
            if node.op in ("placeholder", "get_attr"):
                continue
            args = fx.node.map_arg(node.args, value_of)
            kwargs = fx.node.map_arg(node.kwargs, value_of)
            values[node.name] = _result(root, node, args, kwargs)
            del args, kwargs
            for used in node.all_input_nodes:
                if self._last_use[used] <= position:
                    values.pop(used.name, None)
            if self._last_use[node] < 0 and node.op != "output":
                del values[node.name]
        return values

    def output(self, values: Mapping[str, Any]) -> Any:
        """The network's output, among the values behind the last operation."""
        return values[self.nodes[-1].name]


def _result(root: nn.Module, node: fx.Node, args: Any, kwargs: Any) -> Any:
    if node.op == "call_module":
        return root.get_submodule(str(node.target))(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    if node.op == "output":
        return args[0]
    assert callable(node.target)
    return node.target(*args, **kwargs)


def _attribute(root: nn.Module, path: str) -> Any:
    found: Any = root
    for name in path.split("."):
        found = getattr(found, name)
    return found


def copied_tensor(value: Any) -> Any:
    """A copy of a tensor; anything else as it is."""
    return value.clone() if isinstance(value, Tensor) else value


def same(found: Tensor, expected: Tensor, tolerance: float = _TOLERANCE) -> bool:
    """Whether a tensor is another one up to a part of that one's largest finite value."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    if not found.is_floating_point() or found.numel() == 0:
        return torch.equal(found, expected)
    largest = float(expected.where(expected.isfinite(), 0).abs().max())
    return torch.allclose(found, expected, rtol=0, atol=tolerance * largest, equal_nan=True)
