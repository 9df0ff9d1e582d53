"""The parts of a graph that compute a group norm, whatever operators they are written in.

Each operator that takes a root of a variance, or normalizes by itself, is looked at from both
sides: upwards for a tensor through which all its data comes, downwards for a tensor that, as a
function of that one, is a group norm (`identify`).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from groupnorm.export.onnx_file.evaluate import (
    LARGEST,
    NORMS,
    OPERATORS,
    Array,
    NotEvaluatedError,
    evaluate,
    is_standard,
    label,
)
from groupnorm.export.onnx_file.graph import Dims, Graph
from groupnorm.export.onnx_file.identify import Identified, identify
from groupnorm.export.onnx_file.sizes import Sizes, likely_sizes

if TYPE_CHECKING:
    from onnx import NodeProto

_UPWARDS = 80
"""Operators between the root and the norm's input."""
_DOWNWARDS = 40
"""Operators after the root among which the norm's output is looked for."""
_AFFINE = {"Add", "Cast", "Div", "Identity", "Mul", "Reshape", "Sub", "Transpose", "Unsqueeze"}
_REDUCTIONS = {"GlobalAveragePool", "ReduceMean", "ReduceSum", "ReduceSumSquare"}


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
    if not is_standard(node) or len(node.output) != 1 or not graph.data_inputs(node):
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
        if node is None or index in taken or not _is_computed(graph, node):
            return
        between.add(index)
        frontier.remove(latest)
        frontier.update(graph.data_inputs(node))


def _is_computed(graph: Graph, node: NodeProto) -> bool:
    if node.op_type == "Conv":
        maps = [graph.shape(name) for name in node.input[:2]]
        if any(isinstance(size, int) and size > 1 for dims in maps for size in (dims or ())[2:]):
            return False
    return node.op_type in OPERATORS and is_standard(node) and len(node.output) == 1


def _from(graph: Graph, source: str, root: int, taken: set[int]) -> tuple[Region | None, str]:
    """The norm of a source whose variance a root belongs to."""
    after, dependents = _reached(graph, source, root, taken)
    why = ""
    ran = False
    best: Region | None = None
    for sizes in likely_sizes(graph, source, after.values()):
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
            if region is None:
                continue
            region = _extended(region, after)
            if not sizes.is_guess:
                return region, ""
            # of numbers of channels that are guessed the right one is that which the scale fits
            if best is None or len(region.nodes) > len(best.nodes):
                best = region
            break
    return best, "" if ran else why


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
        if index in taken or not _is_computed(graph, node) or not inputs:
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
    arrays: dict[str, Array] = {region.source: np.zeros(shape)}
    for index in region.nodes:
        node = region.graph.proto.node[index]
        inputs = _inputs(region.graph, node, arrays, region.sizes.named)
        if node.op_type in _REDUCTIONS | NORMS:
            view = arrays[node.input[0]].shape
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
    return replace(best, core=None if region.identified.is_affine else region)


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
        arrays[node.output[0]] = evaluate(node, _inputs(graph, node, arrays, named), rounded)
    return arrays[output]


def _inputs(
    graph: Graph, node: NodeProto, arrays: Mapping[str, Array], named: Mapping[str, int]
) -> list[Array | None]:
    """What a node takes: arrays that were computed, and values that need no data."""
    return [
        None if not i else arrays[i] if i in arrays else graph.value(i, named, arrays)
        for i in node.input
    ]


def operators_of(graph: Graph) -> Iterator[int]:
    """Indices of the nodes that are a group norm by themselves."""
    for index, node in enumerate(graph.proto.node):
        standard = is_standard(node) and node.op_type == "GroupNormalization"
        if len(node.input) < 3 or not node.output:
            continue  # no runtime takes it
        if standard or (node.domain == "com.microsoft" and node.op_type == "GroupNorm"):
            yield index
