"""A graph as it is searched: who makes a tensor, who reads it, its shape, its value if constant."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from groupnorm.export.errors import ExportError
from groupnorm.export.onnx_file.evaluate import (
    OPERATORS,
    Array,
    NotEvaluatedError,
    attribute,
    evaluate,
    is_standard,
    label,
    number,
)
from groupnorm.export.onnx_file.read import OnnxFile, subgraphs, tensor_array

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

Dims = tuple[int | str, ...]
"""Sizes of the axes: a number, a name for one that may change, or "" for one that is not known."""

_LARGEST_CONSTANT = 2**22
"""Elements; what is larger is the weight of something else."""
_SMALL = 2**10
"""Elements of the largest constant that shapes may be computed of."""
_KEEPS_TYPE = {*OPERATORS, "GroupNormalization", "Sigmoid"} - {
    "Cast", "ConstantOfShape", "Shape", "Size",
}  # fmt: skip
"""Operators whose output has the type of their first input; inference leaves out inner graphs."""
_DEEPEST = 100
"""Operators that a constant may be computed by, one after another."""


@dataclass
class Graph:
    """One graph of a file.

    Attributes:
        proto: the graph.
        where: "" for the file's own graph, else the nodes that it is inside of.
        folder: of the file.
        outer: the graph that this one is inside of.
        dims: shapes of tensors, where their rank is known.
        types: ONNX's numbers of their types, where they are known.
        producers: index of the node that makes a tensor.
        readers: indices of the nodes that read it.
        held: tensors that something else reads: outputs of the graph, and what graphs inside of
            it read.
        names: of all tensors that this graph makes or is given.
        tensors: of initializers and Constant nodes.
        depths: of tensors that no data is needed for: how many operators compute them.
    """

    proto: GraphProto
    where: str
    folder: Path
    outer: Graph | None
    dims: dict[str, Dims] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    producers: dict[str, int] = field(default_factory=dict)
    readers: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    held: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    tensors: dict[str, TensorProto] = field(default_factory=dict)
    depths: dict[str, int] = field(default_factory=dict)
    _arrays: dict[str, Array] = field(default_factory=dict)

    def maker(self, name: str) -> NodeProto | None:
        """The node of this graph that makes a tensor, if one does."""
        return self.proto.node[self.producers[name]] if name in self.producers else None

    def is_known(self, name: str) -> bool:
        """Whether a tensor needs no data: constants, shapes, and what is computed of those."""
        if name in self.names or self.outer is None:
            return name in self.depths
        return self.outer.is_known(name)

    def shape(self, name: str) -> Dims | None:
        """The shape of a tensor; None when not even its rank is known."""
        if name in self.names or self.outer is None:
            return self.dims.get(name)
        return self.outer.shape(name)

    def type_of(self, name: str) -> int:
        """ONNX's number of a tensor's type; 0 when it is not known."""
        if name in self.names or self.outer is None:
            return self.types.get(name, 0)
        return self.outer.type_of(name)

    def data_inputs(self, node: NodeProto) -> list[str]:
        """The inputs of a node that need data, each once."""
        return [name for name in dict.fromkeys(node.input) if name and not self.is_known(name)]

    def value(
        self, name: str, sizes: Mapping[str, int], arrays: Mapping[str, Array] | None = None
    ) -> Array:
        """The value of a tensor that `is_known`, in its own type.

        Args:
            name: of the tensor.
            sizes: of the axes that have names.
            arrays: that were computed; their shapes are known.

        Raises:
            NotEvaluatedError: a size is not known, or it cannot be computed.
        """
        if name not in self.names and self.outer is not None:
            return self.outer.value(name, sizes, arrays)
        if name in self.tensors:
            return self._array(name)
        node = self.maker(name)
        if node is None:
            raise NotEvaluatedError(f"{name} is not known")
        if node.op_type == "Shape":
            of = node.input[0]
            dims = arrays[of].shape if arrays and of in arrays else self.shape(of)
            dims = (-1,) if dims is None else dims
            known = [sizes.get(d, -1) if isinstance(d, str) else d for d in dims]
            if min(known, default=0) < 0:
                raise NotEvaluatedError(f"the shape of {of} is not known")
            start, end = number(node, "start", 0), number(node, "end", len(known))
            return np.asarray(known[int(start) : int(end)], np.int64)
        inputs = [self.value(i, sizes, arrays) if i else None for i in node.input]
        return evaluate(node, inputs, rounded=True)

    def _array(self, name: str) -> Array:
        if name not in self._arrays:
            tensor = self.tensors[name]
            if math.prod(tensor.dims) > _LARGEST_CONSTANT:
                raise NotEvaluatedError(f"{name} is a large constant")
            try:
                self._arrays[name] = tensor_array(tensor, self.folder)
            except ExportError as error:
                raise NotEvaluatedError(str(error)) from None
        return self._arrays[name]


def graphs_of(file: OnnxFile) -> list[Graph]:
    """The file's own graph, and those inside of its nodes.

    Raises:
        ExportError: nodes are not in order, or two make one tensor.
    """
    inferred = _inferred(file.model)
    return list(_opened(file.model.graph, inferred, "", file, None))


def _opened(
    proto: GraphProto, inferred: GraphProto, where: str, file: OnnxFile, outer: Graph | None
) -> Iterator[Graph]:
    graph = Graph(proto, where, file.path.parent, outer)
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        _read_type(graph, value)
    graph.names.update(value.name for value in proto.input)
    for tensor in proto.initializer:
        graph.names.add(tensor.name)
        graph.tensors[tensor.name] = tensor
        graph.depths[tensor.name] = 0
        graph.dims[tensor.name] = tuple(tensor.dims)
        graph.types[tensor.name] = tensor.data_type
    graph.names.update(sparse.values.name for sparse in proto.sparse_initializer)
    graph.held.update(value.name for value in proto.output)
    later = {name for node in proto.node for name in node.output if name}
    for index, node in enumerate(proto.node):
        _add_node(graph, index, node, later, file.path)
    yield graph
    for node, twin in zip(proto.node, inferred.node, strict=True):
        for (name, inner), (_, inner_twin) in zip(subgraphs(node), subgraphs(twin), strict=True):
            said = f"{node.op_type} {label(node)}, {name}"
            path = f"{where}; {said}" if where else said
            yield from _opened(inner, inner_twin, path, file, graph)


def _add_node(graph: Graph, index: int, node: NodeProto, later: set[str], path: Path) -> None:
    for name in node.input:
        if name in later and name not in graph.names:
            raise ExportError(
                f"{path}: the node {label(node)!r} reads {name!r} before it is made; "
                "ONNX asks for nodes in order, export the model again"
            )
        graph.readers[name].append(index)
    for _, inner in subgraphs(node):
        graph.held.update(_names_read(inner))
    for name in node.output:
        if name and name in graph.names:
            raise ExportError(
                f"{path}: the tensor {name!r} is made twice; ONNX asks for one node for each, "
                "export the model again"
            )
        if name:
            graph.names.add(name)
            graph.producers[name] = index
            if name not in graph.types and node.op_type in _KEEPS_TYPE and node.input:
                graph.types[name] = graph.type_of(node.input[0])
    if len(node.output) != 1 or not is_standard(node):
        return
    if node.op_type == "Constant":
        tensor = _constant(node)
        if tensor is not None:
            graph.tensors[node.output[0]] = tensor
            graph.depths[node.output[0]] = 0
    elif node.op_type == "Shape" and node.input:
        graph.depths[node.output[0]] = 0
    elif node.op_type in OPERATORS and all(graph.is_known(i) for i in node.input if i):
        depth = 1 + max((graph.depths.get(i, 0) for i in node.input), default=0)
        if depth <= _DEEPEST:
            graph.depths[node.output[0]] = depth


def _constant(node: NodeProto) -> TensorProto | None:
    from onnx.numpy_helper import from_array

    for name, kind in (
        ("value_float", np.float32),
        ("value_floats", np.float32),
        ("value_int", np.int64),
        ("value_ints", np.int64),
    ):
        value = attribute(node, name)
        if value is not None:
            return from_array(np.asarray(value, kind))
    found: TensorProto | None = attribute(node, "value")
    return found


def _names_read(graph: GraphProto) -> set[str]:
    names = {value.name for value in graph.output}
    for node in graph.node:
        names.update(node.input)
        for _, inner in subgraphs(node):
            names |= _names_read(inner)
    return names


def _read_type(graph: Graph, value: ValueInfoProto) -> None:
    if not value.type.HasField("tensor_type"):
        return
    tensor = value.type.tensor_type
    graph.types[value.name] = tensor.elem_type
    if tensor.HasField("shape"):
        graph.dims[value.name] = tuple(
            d.dim_value if d.HasField("dim_value") else d.dim_param for d in tensor.shape.dim
        )


def _inferred(model: ModelProto) -> GraphProto:
    """The graph with the shapes that can be inferred, without the data of large weights."""
    from onnx import GraphProto, ModelProto, TensorProto
    from onnx.shape_inference import infer_shapes

    given = model.graph
    graph = GraphProto(
        name="slim",
        node=given.node,
        input=given.input,
        output=given.output,
        value_info=given.value_info,
    )
    for tensor in given.initializer:
        if math.prod(tensor.dims) <= _SMALL and tensor.data_location != TensorProto.EXTERNAL:
            graph.initializer.append(tensor)
        else:
            graph.initializer.add(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
    slim = ModelProto(
        ir_version=model.ir_version,
        opset_import=model.opset_import,
        functions=model.functions,
        graph=graph,
    )
    for propagate in (True, False):
        try:
            return infer_shapes(slim, data_prop=propagate).graph
        except Exception:  # a model that inference does not take still has the shapes it tells
            continue
    return slim.graph
