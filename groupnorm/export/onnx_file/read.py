"""Reading a file that anybody may have made: what is wrong with it is said in one sentence.

Weights that the file keeps in others are not loaded; a tensor of them is read when it is asked for,
and only from files in the model's own folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from groupnorm.counts import counted
from groupnorm.export.errors import ExportError
from groupnorm.export.onnx_file.evaluate import STANDARD, Array
from groupnorm.files import describe_os_error, first_line

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

LARGEST_FILE = 2**31 - 1
"""Bytes that one ONNX file can hold."""
OLDEST_OPSET = 7
"""Before it operators broadcast by an attribute, and had others of that kind."""


@dataclass(frozen=True)
class OnnxFile:
    """A file that was read.

    Attributes:
        path: of the file.
        model: what it holds; data of external tensors is not loaded.
        opset: version of ONNX's own operators.
        data_files: the files that it keeps weights in, relative to its folder.
    """

    path: Path
    model: ModelProto
    opset: int
    data_files: tuple[str, ...]


def read_file(path: Path) -> OnnxFile:
    """Read a file and check that it can be looked into.

    Raises:
        ExportError: there is none, it is no ONNX file, it is cut off, or the files that it names
            for its weights are missing, too short or outside its folder.
    """
    try:
        from google.protobuf.message import DecodeError
        from onnx import ModelProto
    except ModuleNotFoundError as missing:
        raise ExportError(
            f"reading ONNX files needs {missing.name}; install it with: "
            "pip install 'groupnorm[export]'"
        ) from None
    data = _bytes_of(path)
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, RecursionError, ValueError):
        raise ExportError(
            f"{path} is no ONNX file, or was cut off while it was written; expected a model as "
            "torch.onnx.export writes it"
        ) from None
    if not model.ir_version or not model.HasField("graph") or not model.graph.output:
        raise ExportError(
            f"{path} holds no ONNX model: it has no graph with an output; if it was copied, copy "
            "it again"
        )
    opset = next((o.version for o in model.opset_import if o.domain in STANDARD), 0)
    if opset < OLDEST_OPSET:
        found = f"opset {opset}" if opset else "no opset"
        raise ExportError(
            f"{path} has {found} of ONNX's operators; expected {OLDEST_OPSET} or later, export it "
            "again"
        )
    if not all(isinstance(name, str) for name in names_in(model.graph)):
        raise ExportError(f"{path} has names that are not UTF-8: it is damaged; copy it again")
    return OnnxFile(path, model, opset, _data_files(model, path))


def tensor_array(tensor: TensorProto, folder: Path) -> Array:
    """The numbers of a tensor, read from its file in `folder` where they are not in the model.

    Raises:
        ExportError: they do not fit its shape, or cannot be read.
    """
    from onnx import TensorProto
    from onnx.numpy_helper import to_array

    if tensor.data_location == TensorProto.EXTERNAL:
        name, offset, length = _location(tensor)
        inside = TensorProto(dims=tensor.dims, data_type=tensor.data_type, name=tensor.name)
        try:
            with _checked(folder, name, tensor.name).open("rb") as file:
                file.seek(offset)
                inside.raw_data = file.read(-1 if length is None else length)
        except OSError as error:
            raise ExportError(describe_os_error(error)) from None
        tensor = inside
    try:
        return np.asarray(to_array(tensor))
    except Exception as error:  # wrong sizes, unknown types: whatever the file says
        raise ExportError(
            f"the tensor {tensor.name!r} is damaged: {first_line(error)}; export the model again"
        ) from None


def tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor of the model: of graphs in graphs and of functions, too."""
    yield from _tensors_of_graph(model.graph)
    for function in model.functions:
        yield from _tensors_of_nodes(function.node)


def subgraphs(node: NodeProto) -> Iterator[tuple[str, GraphProto]]:
    """The graphs in a node's attributes, each with the attribute's name."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.name, attribute.g
        yield from ((attribute.name, graph) for graph in attribute.graphs)


def all_nodes(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Nodes and those of the graphs inside of them."""
    for node in nodes:
        yield node
        for _, graph in subgraphs(node):
            yield from all_nodes(graph.node)


def names_in(graph: GraphProto) -> Iterator[str | bytes]:
    """Every name in a graph; protobuf gives bytes where one is not UTF-8."""
    yield from (value.name for value in (*graph.input, *graph.output, *graph.value_info))
    yield from (tensor.name for tensor in graph.initializer)
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)
        for _, inner in subgraphs(node):
            yield from names_in(inner)


def _bytes_of(path: Path) -> bytes:
    if not path.exists():
        raise ExportError(f"there is no file {path}")
    if not path.is_file():
        raise ExportError(f"{path} is not a file; expected an ONNX file")
    size = path.stat().st_size
    if not size:
        raise ExportError(f"{path} is empty; expected an ONNX file")
    if size > LARGEST_FILE:
        raise ExportError(
            f"{path} has {counted(size, 'byte')}, an ONNX file holds at most "
            f"{LARGEST_FILE:,}; save it with its weights as external data"
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise ExportError(describe_os_error(error)) from None


def _tensors_of_graph(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _tensors_of_nodes(graph.node)


def _tensors_of_nodes(nodes: Iterable[NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            yield from _tensors_of_attribute(attribute)


def _tensors_of_attribute(attribute: AttributeProto) -> Iterator[TensorProto]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    if attribute.HasField("sparse_tensor"):
        yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
    if attribute.HasField("g"):
        yield from _tensors_of_graph(attribute.g)
    for graph in attribute.graphs:
        yield from _tensors_of_graph(graph)


def _location(tensor: TensorProto) -> tuple[str, int, int | None]:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries["length"]) if "length" in entries else None
    except ValueError:
        offset, length = -1, None
    if offset < 0 or (length is not None and length < 0) or not entries.get("location"):
        raise ExportError(
            f"the tensor {tensor.name!r} does not say where its data is: expected a file, an "
            f"offset and a length, got {entries}"
        )
    return entries["location"], offset, length


def _checked(folder: Path, name: str, tensor: str) -> Path:
    """The data file, which is in the folder and not reached by a link out of it."""
    root = Path(os.path.realpath(folder))
    path = Path(os.path.realpath(folder / name)) if "\0" not in name else root
    if path.is_relative_to(root) and path != root and not Path(name).is_absolute():
        return path
    parts = Path(os.path.normpath(name)).parts
    what = "outside the model's folder"
    if not Path(name).is_absolute() and ".." not in parts and path != root:
        what = "a link out of the model's folder (copy the file beside the model)"
    raise ExportError(f"the tensor {tensor!r} names data in {name!r}, {what}; it is not read")


def _data_files(model: ModelProto, path: Path) -> tuple[str, ...]:
    """The data files of a model, each of which is there and long enough."""
    from onnx import TensorProto

    needed: dict[str, int] = {}
    for tensor in tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            name, offset, length = _location(tensor)
            _checked(path.parent, name, tensor.name)
            needed[name] = max(needed.get(name, 0), offset + (length or 0))
    for name, size in needed.items():
        data = path.parent / name
        if not data.is_file():
            raise ExportError(
                f"{path} keeps weights in {name!r}, which is not there; copy it beside the model"
            )
        if data.stat().st_size < size:
            raise ExportError(
                f"{data} is cut off: the model needs {size:,} bytes of it, it has "
                f"{data.stat().st_size:,}; copy it again"
            )
    return tuple(needed)
