"""The parts of a graph that compute a group norm, whatever operators they are written in.

Each operator that takes a root of a variance, or normalizes by itself, is looked at from both
sides: upwards for a tensor through which all its data comes, downwards for a tensor that, as a
function of that one, is a group norm (`identify`).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from groupnorm.export.onnx_file.evaluate import (
    LARGEST,
    NORMS,
    OPERATORS,
    Array,
    NotEvaluatedError,
    evaluate,
    is_float,
    label,
)
from groupnorm.export.onnx_file.graph import Dims, Graph
from groupnorm.export.onnx_file.identify import Identified, identify

if TYPE_CHECKING:
    from onnx import NodeProto

_UPWARDS = 80
"""Operators between the root and the norm's input."""
_DOWNWARDS = 40
"""Operators after the root among which the norm's output is looked for."""
_AFFINE = {"Add", "Cast", "Div", "Identity", "Mul", "Reshape", "Sub", "Transpose", "Unsqueeze"}
_REDUCTIONS = {"GlobalAveragePool", "ReduceMean", "ReduceSum", "ReduceSumSquare"}


@dataclass(frozen=True)
class Sizes:
    """A shape that a part of a graph is computed at.

    Attributes:
        shape: of the input.
        named: the sizes of axes that have names.
        other: another shape and its names, where sizes may change.
    """

    shape: tuple[int, ...]
    named: Mapping[str, int]
    other: Sizes | None = None


@dataclass(frozen=True)
class Region:
    """A part of a graph, from one tensor to another, that computes a group norm.

    Attributes:
        graph: that it is in.
        source: the tensor that all its data comes from.
        output: the tensor that it makes.
        nodes: indices of the nodes between, in order.
        root: index of the node that it was found by.
        sizes: at which it was computed.
        identified: what it computes.
        shared: tensors between, that something else reads, too.
        core: the part of it without the scale and shift that follow, if that is one by itself.
    """

    graph: Graph
    source: str
    output: str
    nodes: tuple[int, ...]
    root: int
    sizes: Sizes
    identified: Identified
    shared: tuple[str, ...]
    core: Region | None = None

    def __call__(self, x: Array, rounded: bool = False) -> Array:
        """The output for an input; `rounded` as in `evaluate`."""
        return _run(self.graph, self.source, self.output, self.nodes, x, self.sizes.named, rounded)

    def operators(self) -> list[str]:
        """Types of its nodes, in order."""
        return [self.graph.proto.node[index].op_type for index in self.nodes]


def find_regions(graph: Graph) -> tuple[list[Region], list[str]]:
    """The group norms of a graph that are written in several operators.

    Returns:
        They, in the graph's order; and for each place that may be one and could not be computed,
        what it is and why.
    """
    found: list[Region] = []
    unclear: list[str] = []
    taken: set[int] = set()
    for index, node in enumerate(graph.proto.node):
        if index in taken or not _is_root(graph, node):
            continue
        region, why = _around(graph, index, taken)
        if region is not None:
            found.append(region)
            taken.update(region.nodes)
        elif why:
            unclear.append(f"{node.op_type} {label(node)}: {why}")
    return found, unclear


def _is_root(graph: Graph, node: NodeProto) -> bool:
    if node.domain not in ("", "ai.onnx") or len(node.output) != 1 or not graph.data_inputs(node):
        return False
    if node.op_type == "Pow" and all(map(graph.is_known, node.input[1:])):
        try:
            exponent = graph.value(node.input[1], {})
        except (NotEvaluatedError, IndexError):
            return False
        return exponent.size == 1 and abs(float(exponent.reshape(-1)[0])) == 0.5
    return node.op_type == "Sqrt" or node.op_type in NORMS


def _around(graph: Graph, root: int, taken: set[int]) -> tuple[Region | None, str]:
    """The largest norm around a root; without one, why it may be one (else "")."""
    best: Region | None = None
    why = ""
    for source, above in _sources(graph, root, taken):
        operators = {graph.proto.node[index].op_type for index in above}
        if not operators & (_REDUCTIONS | NORMS):
            continue
        region, reason = _from(graph, source, root, taken)
        if region is None and reason and "Reshape" in operators:
            why = reason
        if region is not None and (best is None or not region.shared or best.shared):
            best = region
    return best, "" if best else why


def _sources(graph: Graph, root: int, taken: set[int]) -> Iterator[tuple[str, set[int]]]:
    """The tensors through which all data of a node comes, nearest first, and the nodes between."""
    between = {root}
    frontier = set(graph.data_inputs(graph.proto.node[root]))
    for _ in range(_UPWARDS):
        if len(frontier) == 1:
            yield next(iter(frontier)), set(between)
        if not frontier:
            return
        latest = max(frontier, key=lambda name: graph.producers.get(name, -1))
        node = graph.maker(latest)
        index = graph.producers.get(latest, -1)
        if node is None or index in taken or not _is_computed(node):
            return
        between.add(index)
        frontier.remove(latest)
        frontier.update(graph.data_inputs(node))


def _is_computed(node: NodeProto) -> bool:
    return node.op_type in OPERATORS and node.domain in ("", "ai.onnx") and len(node.output) == 1


def _from(graph: Graph, source: str, root: int, taken: set[int]) -> tuple[Region | None, str]:
    """The norm of a source whose variance a root belongs to."""
    after, dependents = _reached(graph, source, root, taken)
    why = ""
    ran = False
    for sizes in _sizes(graph, source, after):
        if math.prod(sizes.shape) > LARGEST:
            why = f"its input of shape {sizes.shape} is too large to be computed here"
            continue
        if len(sizes.shape) < 2 or not all(sizes.shape):
            continue
        for index in dependents:
            output = graph.proto.node[index].output[0]
            if not _may_agree(graph.shape(source), graph.shape(output)):
                continue
            nodes = _between(graph, source, output, after)
            try:
                region = _region(graph, source, output, nodes, root, sizes)
                ran = True
            except NotEvaluatedError as error:
                why = why or str(error)
                continue
            if region is not None:
                return _extended(region, after), ""
    return None, "" if ran else why


def _may_agree(one: Dims | None, other: Dims | None) -> bool:
    """Whether two shapes may be the same, as far as they are known."""
    if one is None or other is None:
        return True
    return len(one) == len(other) and all(
        a == b or isinstance(a, str) or isinstance(b, str) for a, b in zip(one, other, strict=True)
    )


def _reached(
    graph: Graph, source: str, root: int, taken: set[int]
) -> tuple[dict[str, int], list[int]]:
    """What can be computed of a source: tensors with their nodes; and nodes that need the root."""
    made: dict[str, int] = {}
    dependents: list[int] = []
    needs = {graph.proto.node[root].output[0]}
    queue = sorted(set(graph.readers.get(source, ())))
    queued = set(queue)
    while queue and len(dependents) < _DOWNWARDS and len(made) < 4 * _UPWARDS:
        index = heapq.heappop(queue)
        node = graph.proto.node[index]
        inputs = graph.data_inputs(node)
        if index in taken or not _is_computed(node) or not inputs:
            continue
        if any(name != source and name not in made for name in inputs):
            continue
        output = node.output[0]
        made[output] = index
        if index == root or needs.intersection(inputs):
            needs.add(output)
            dependents.append(index)
        for reader in graph.readers.get(output, ()):
            if reader not in queued:
                queued.add(reader)
                heapq.heappush(queue, reader)
    return made, dependents


def _between(graph: Graph, source: str, output: str, made: Mapping[str, int]) -> tuple[int, ...]:
    """Indices of the nodes that an output needs, in order."""
    nodes: set[int] = set()
    names = [output]
    while names:
        name = names.pop()
        if name != source and made[name] not in nodes:
            nodes.add(made[name])
            names += graph.data_inputs(graph.proto.node[made[name]])
    return tuple(sorted(nodes))


def _region(
    graph: Graph, source: str, output: str, nodes: tuple[int, ...], root: int, sizes: Sizes
) -> Region | None:
    """The region, if it is a group norm that no other norm is.

    Raises:
        NotEvaluatedError: it cannot be computed.
    """
    named = {sizes.shape: sizes.named}
    others: tuple[tuple[int, ...], ...] = ()
    if sizes.other is not None:
        named[sizes.other.shape] = sizes.other.named
        others = (sizes.other.shape,)

    def function(x: Array) -> Array:
        return _run(graph, source, output, nodes, x, named[x.shape], rounded=False)

    identified = identify(function, sizes.shape, others)
    if identified is None:
        return None
    shared = tuple(
        name
        for index in nodes
        for name in graph.proto.node[index].output
        if name != output
        and (name in graph.held or not set(graph.readers.get(name, ())) <= set(nodes))
    )
    region = Region(graph, source, output, nodes, root, sizes, identified, shared)
    return region if _has_groups(region) else None


def _has_groups(region: Region) -> bool:
    """Whether a norm of one group, or of one channel in each, has a view that says so.

    Without one these are layer norm and instance norm, of which the same numbers come.
    """
    identified = region.identified
    if 1 < identified.groups < identified.channels:
        return True
    shape = region.sizes.shape
    arrays = {region.source: np.zeros(shape)}
    for index in region.nodes:
        node = region.graph.proto.node[index]
        inputs = [
            arrays[i] if i in arrays else region.graph.value(i, region.sizes.named, arrays)
            for i in node.input
            if i
        ]
        if node.op_type in _REDUCTIONS | NORMS:
            view = inputs[0].shape
            return view != shape and view[0] == shape[0] and identified.groups in view[1:]
        arrays[node.output[0]] = evaluate(node, inputs, rounded=False)
    return False


def _extended(region: Region, made: Mapping[str, int]) -> Region:
    """The region with the scale and shift that follow it and nothing else."""
    graph, best, output = region.graph, region, region.output
    missed = 0
    while missed < 2:
        readers = set(graph.readers.get(output, ()))
        if output in graph.held or len(readers) != 1:
            break
        node = graph.proto.node[next(iter(readers))]
        if node.op_type not in _AFFINE or node.output[0] not in made:
            break
        output = node.output[0]
        nodes = _between(graph, region.source, output, made)
        try:
            longer = _region(graph, region.source, output, nodes, region.root, region.sizes)
        except NotEvaluatedError:
            break
        missed = 0 if longer else missed + 1
        best = longer or best
    if best is region:
        return region
    core = None if region.identified.is_affine else region
    return Region(
        graph, best.source, best.output, best.nodes, best.root, best.sizes, best.identified,
        best.shared, core,
    )  # fmt: skip


def _run(
    graph: Graph,
    source: str,
    output: str,
    nodes: tuple[int, ...],
    x: Array,
    named: Mapping[str, int],
    rounded: bool,
) -> Array:
    arrays = {source: x}
    for index in nodes:
        node = graph.proto.node[index]
        inputs = [
            None if not i else arrays[i] if i in arrays else graph.value(i, named, arrays)
            for i in node.input
        ]
        arrays[node.output[0]] = evaluate(node, inputs, rounded)
    return arrays[output]


def _sizes(graph: Graph, source: str, made: Mapping[str, int]) -> list[Sizes]:
    """Shapes at which a part of a graph may be computed, the likeliest first."""
    known = graph.shape(source)
    constants = list(_constants(graph, made))
    written = [
        tuple(int(size) for size in array)
        for array in constants
        if np.issubdtype(array.dtype, np.integer)
        and array.ndim == 1
        and array.size
        and array.min() > 0
    ]
    if known is not None and not any(isinstance(size, str) for size in known):
        return [Sizes(tuple(int(size) for size in known), {})]
    bases = [known] if known is not None else [("",) * rank for rank in (4, 3, 5, 2)]
    channels = sorted({array.size for array in constants if is_float(array.dtype)} - {0, 1})
    found: list[Sizes] = []
    for base in bases:
        if len(base) < 2:
            continue
        options = [base]
        if isinstance(base[1], str) and isinstance(base[-1], str):
            options = [
                (*base[:axis], size, *base[axis + 1 :])
                for axis in dict.fromkeys((1, len(base) - 1))
                for size in channels
            ]
        found += [_filled(option) for option in options]
        found += [
            Sizes(shape, {n: s for n, s in zip(base, shape, strict=True) if isinstance(n, str)})
            for shape in written
            if len(shape) == len(base)
            and all(isinstance(n, str) or n == s for n, s in zip(base, shape, strict=True))
        ]
    return found[:24]


def _filled(dims: tuple[int | str, ...]) -> Sizes:
    """Sizes for axes that may change, no two of them the same, and others."""
    sizes: list[Sizes] = []
    for numbers in ((3, 4, 6, 8, 9), (2, 3, 5, 7, 11)):
        named: dict[str, int] = {}
        shape: list[int] = []
        for axis, size in enumerate(dims):
            if isinstance(size, str) and size not in named:
                named[size or f" {axis}"] = numbers[axis % len(numbers)]
            shape.append(named[size or f" {axis}"] if isinstance(size, str) else size)
        other = sizes[0] if sizes else None
        sizes.append(Sizes(tuple(shape), named, other))
    return sizes[1] if sizes[0].shape != sizes[1].shape else Sizes(sizes[1].shape, named)


def _constants(graph: Graph, made: Mapping[str, int]) -> Iterator[Array]:
    for index in made.values():
        for name in graph.proto.node[index].input:
            if name and graph.is_known(name):
                try:
                    yield graph.value(name, {})
                except NotEvaluatedError:
                    continue


def operators_of(graph: Graph) -> Iterator[int]:
    """Indices of the nodes that are a group norm by themselves."""
    for index, node in enumerate(graph.proto.node):
        standard = node.domain in ("", "ai.onnx") and node.op_type == "GroupNormalization"
        if len(node.input) < 3 or not node.output:
            continue  # no runtime takes it
        if standard or (node.domain == "com.microsoft" and node.op_type == "GroupNorm"):
            yield index
