"""The group norms of an ONNX file: how each is written, and where that goes wrong."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from groupnorm.counts import counted
from groupnorm.export.onnx_file.evaluate import (
    NORMS,
    NotEvaluatedError,
    label,
    number,
    without_warnings,
)
from groupnorm.export.onnx_file.faults import (
    CONTRIB,
    INSTANCE,
    LAYER,
    OFFSETS,
    OPERATOR,
    POOLED,
    SHIFTED,
    SQUARES,
    TWO_PASS,
    Fault,
    formula_fault,
    known_faults,
)
from groupnorm.export.onnx_file.find import Region, find_regions, operators_of
from groupnorm.export.onnx_file.graph import Dims, Graph, graphs_of
from groupnorm.export.onnx_file.read import OnnxFile, all_nodes, read_file

if TYPE_CHECKING:
    from onnx import FunctionProto, NodeProto

_ROUNDINGS = 4
"""Of the result's type that an output may be off by, one for each of the last operators."""


@dataclass(frozen=True)
class FoundNorm:
    """One group norm of a file.

    Attributes:
        name: of the node that makes its output, or the output's when the node has none.
        graph: "" for the file's own graph, else the nodes that it is inside of.
        form: how it is written, one of `faults`.
        nodes: of the graph that it is made of, by name or output, in order.
        input: the tensor that is normalized.
        output: the tensor that it makes, scale and shift included.
        shape: of the input: a number for an axis, its name, or "" if unknown; None without rank.
        dtype: of the input, as "float32"; "" when it is not known.
        channels_last: whether the channels are the last axis.
        channels: C; 0 when it is not known.
        groups: G.
        eps: added to the variance.
        affine: what follows the normalization: "scale and shift", "scale", "shift" or "none".
        faults: what goes wrong with it where.
        kept: why `repair` does not write it anew; "" if it does, or need not.
    """

    name: str
    graph: str
    form: str
    nodes: tuple[str, ...]
    input: str
    output: str
    shape: Dims | None
    dtype: str
    channels_last: bool
    channels: int
    groups: int
    eps: float
    affine: str
    faults: tuple[Fault, ...]
    kept: str = ""

    @property
    def values_per_group(self) -> int | None:
        """How many values of a sample a group has; None if a size is not known."""
        return _values(self.shape, self.channels_last, self.channels, self.groups)

    @property
    def is_wrong(self) -> bool:
        """Whether any runtime that is known goes wrong with it."""
        return any(fault.wrong for fault in self.faults)


@dataclass(frozen=True)
class Inspection:
    """What a file holds.

    Attributes:
        path: of the file.
        opset: of ONNX's own operators.
        norms: the group norms, in the graph's order.
        not_looked_into: what may hold more of them and could not be told, in sentences.
    """

    path: Path
    opset: int
    norms: tuple[FoundNorm, ...]
    not_looked_into: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values for JSON."""
        norms = [{**asdict(norm), "is_wrong": norm.is_wrong} for norm in self.norms]
        return {**asdict(self), "path": str(self.path), "norms": norms}


@dataclass(frozen=True)
class Place:
    """A norm and where it stands: what `repair` needs besides.

    Attributes:
        norm: what is said of it.
        graph: that it is in.
        node: index of its operator, if it is one; None for several.
        region: of several operators; None for one.
    """

    norm: FoundNorm
    graph: Graph
    node: int | None
    region: Region | None


def inspect(path: str | Path) -> Inspection:
    """List the group norms of an ONNX file, in whatever operators they are written.

    They are found by what they compute, so that none is listed that is not group norm: layer norm
    and instance norm, other axes and other formulas of the variance are not.

    Args:
        path: of the file. Weights that it keeps in other files are only read from its folder.

    Raises:
        ExportError: it cannot be read, or is no ONNX file.
    """
    file = read_file(Path(path))
    places, unclear = look_into(file)
    return Inspection(file.path, file.opset, tuple(place.norm for place in places), unclear)


def look_into(file: OnnxFile) -> tuple[list[Place], tuple[str, ...]]:
    """The norms of a file, and what could not be looked into."""
    places: list[Place] = []
    unclear: list[str] = []
    for graph in graphs_of(file):
        with without_warnings():
            regions, reasons = find_regions(graph)
            found = [_of_region(region, file.opset) for region in regions]
        found += [_of_operator(graph, index, file.opset) for index in operators_of(graph)]
        places += sorted(found, key=lambda place: graph.producers[place.norm.output])
        unclear += [f"{graph.where}: {why}" if graph.where else why for why in reasons]
    for function in file.model.functions:
        unclear += _in_function(function)
    return places, tuple(unclear)


def _of_operator(graph: Graph, index: int, opset: int) -> Place:
    node = graph.proto.node[index]
    form = OPERATOR if node.op_type == OPERATOR else CONTRIB
    shape, dtype = graph.shape(node.input[0]), _dtype(graph, node.input[0])
    last = form == CONTRIB and bool(number(node, "channels_last", 1))
    groups = int(number(node, "num_groups", number(node, "groups", 0)))
    kept = "" if form == OPERATOR else "it is left to those who run it on a GPU"
    if groups < 1:
        kept = "it does not say how many groups it has"
    norm = FoundNorm(
        name=label(node),
        graph=graph.where,
        form=form,
        nodes=(label(node),),
        input=node.input[0],
        output=node.output[0],
        shape=shape,
        dtype=dtype,
        channels_last=last,
        channels=_channels(graph, node, opset, groups, -1 if last else 1),
        groups=groups,
        eps=float(f"{number(node, 'epsilon', 1e-5):.7g}"),
        affine="scale and shift",
        faults=tuple(known_faults(form, opset, groups, dtype, None)),
        kept=kept,
    )
    return Place(norm, graph, index, None)


def _channels(graph: Graph, node: NodeProto, opset: int, groups: int, axis: int) -> int:
    """C from the shape of the input or of the scale; 0 when neither is known."""
    shape = graph.shape(node.input[0])
    if shape is not None and len(shape) > 1 and isinstance(shape[axis], int):
        return int(shape[axis])
    scale = graph.shape(node.input[1])
    per_channel = opset >= 21 or node.op_type != OPERATOR
    if per_channel and scale is not None and len(scale) == 1 and isinstance(scale[0], int):
        return int(scale[0])
    return 0


def _of_region(region: Region, opset: int) -> Place:
    graph, found = region.graph, region.identified
    form, dtype = _form(region), _dtype(graph, region.source)
    names = [label(graph.proto.node[i]) for i in region.nodes]
    tells_channels = region.core is not None or found.is_affine
    shape = graph.shape(region.source)
    values = _values(shape, found.axis != 1, found.channels, found.groups)
    faults = list(known_faults(form, opset, found.groups, dtype, values))
    if form in (TWO_PASS, POOLED):
        errors, is_wrong = _errors(region, dtype)
        if is_wrong and _squares_a_mean(region):
            form = SQUARES
        if is_wrong:
            faults.append(formula_fault(form, errors))
    norm = FoundNorm(
        name=names[-1],
        graph=graph.where,
        form=form,
        nodes=tuple(names),
        input=region.source,
        output=region.output,
        shape=shape,
        dtype=dtype,
        channels_last=found.axis != 1,
        channels=0 if region.sizes.is_guess and not tells_channels else found.channels,
        groups=found.groups,
        eps=found.eps,
        affine=" and ".join(["scale"] * found.has_scale + ["shift"] * found.has_shift) or "none",
        faults=tuple(faults),
    )
    if norm.is_wrong and region.shared:
        shared = ", ".join(repr(name) for name in region.shared[:3])
        norm = replace(norm, kept=f"{shared} between its operators is read elsewhere, too")
    return Place(norm, graph, None, region)


def _values(shape: Dims | None, channels_last: bool, channels: int, groups: int) -> int | None:
    """The values of a sample's group; None if a size is not known."""
    if shape is None or groups < 1:
        return None
    positions = shape[1:-1] if channels_last else shape[2:]
    if not all(isinstance(size, int) for size in positions):
        return None
    return channels // groups * math.prod(int(size) for size in positions)


def _form(region: Region) -> str:
    operators = Counter(region.operators())
    if operators["InstanceNormalization"]:
        return SHIFTED if operators["ReduceMean"] else INSTANCE
    if operators["LayerNormalization"]:
        return LAYER
    if operators["Conv"] or operators["MatMul"]:
        return POOLED
    return TWO_PASS


def _squares_a_mean(region: Region) -> bool:
    """Whether the square of a mean is subtracted from something."""
    graph = region.graph

    def is_square(name: str) -> bool:
        node = graph.maker(name)
        if node is None or node.op_type not in ("Mul", "Pow"):
            return False
        return bool(node.op_type == "Pow" or len(set(node.input)) == 1)

    subtracted = (
        name
        for index in region.nodes
        if graph.proto.node[index].op_type == "Sub"
        for name in graph.proto.node[index].input[1:]
    )
    return any(is_square(name) for name in subtracted)


def _errors(region: Region, dtype: str) -> tuple[tuple[float, ...], bool]:
    """Largest errors at `OFFSETS` in the file's types, and whether one is more than it may be.

    A float32 group norm may be off by 1e-6 (1 + |mean| / spread) times its scale, and by some
    roundings of its result.
    """
    found, rng = region.identified, np.random.default_rng(0)
    kind = _numpy_type(dtype)
    step = float(2.0 ** -(1 + _digits(kind)))
    errors: list[float] = []
    is_wrong = False
    for offset in OFFSETS:
        x = (rng.standard_normal(region.sizes.shape) + offset).astype(kind)
        try:
            y = region(x, rounded=True).astype(np.float64)
        except NotEvaluatedError:
            return (), False
        expected = found.of(x)
        spread = max(float(x.astype(np.float64).std()), float(found.eps) ** 0.5, 1e-12)
        # the unit of float32: statistics of half types are kept in float32
        unit = 1e-6 if kind.itemsize < 8 else 1e-14
        allowed = unit * (1 + offset / spread) * float(np.abs(found.weight).max())
        allowed += _ROUNDINGS * step * float(np.abs(expected).max())
        error = float(np.abs(y - expected).max())
        errors.append(error)
        is_wrong |= not error <= allowed
    return tuple(errors), is_wrong


def _digits(kind: np.dtype[Any]) -> int:
    return 7 if kind.name == "bfloat16" else int(np.finfo(kind).nmant)


def _numpy_type(dtype: str) -> np.dtype[Any]:
    """The type of that name; float32 when it is not known, or none of a norm."""
    if dtype != "bfloat16":
        return np.dtype(dtype if dtype in ("float16", "float64") else "float32")
    from onnx import TensorProto
    from onnx.helper import tensor_dtype_to_np_dtype

    bfloat16: np.dtype[Any] = tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)
    return bfloat16


def _dtype(graph: Graph, name: str) -> str:
    code = graph.type_of(name)
    if not code:
        return ""
    from onnx.helper import tensor_dtype_to_np_dtype

    try:
        return str(np.dtype(tensor_dtype_to_np_dtype(code)).name)
    except KeyError:
        return ""


def _in_function(function: FunctionProto) -> Iterator[str]:
    """What a function of the file's own may hold."""
    counts = Counter(
        node.op_type
        for node in all_nodes(function.node)
        if node.op_type in {OPERATOR, "GroupNorm", "Sqrt", *NORMS}
    )
    if counts:
        held = ", ".join(counted(count, f"node {kind}") for kind, count in sorted(counts.items()))
        yield f"function {function.domain}.{function.name}: {held}; functions are not looked into"
