"""Writing those group norms of an ONNX file anew that go wrong; all else stays as it is."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from groupnorm.export.errors import ExportError
from groupnorm.export.onnx_file.accurate import Affine, Written, write_accurate
from groupnorm.export.onnx_file.evaluate import Array, evaluate, without_warnings
from groupnorm.export.onnx_file.find import Region
from groupnorm.export.onnx_file.graph import Graph
from groupnorm.export.onnx_file.identify import group_norm, per_channel
from groupnorm.export.onnx_file.inspection import FoundNorm, Place, look_into
from groupnorm.export.onnx_file.read import OnnxFile, all_nodes, names_in, read_file, tensor_array
from groupnorm.export.onnx_file.write import check_target, write_model

if TYPE_CHECKING:
    from onnx import NodeProto

_TYPES = ("float16", "bfloat16", "float32", "float64")
"""That norms are written anew in."""
_SAME = 1e-8
"""Of the largest output, in float64; nodes whose constants are float32 leave 1e-9."""


@dataclass(frozen=True)
class RepairReport:
    """What `repair` did.

    Attributes:
        path: of the file read.
        out: of the file written; None when there was nothing to write.
        repaired: the norms that were written anew, as they were.
        kept: the norms that go wrong somewhere and stay; `FoundNorm.kept` says why.
        right: how many norms go wrong nowhere that is known.
        not_looked_into: as in `Inspection`.
    """

    path: Path
    out: Path | None
    repaired: tuple[FoundNorm, ...]
    kept: tuple[FoundNorm, ...]
    right: int
    not_looked_into: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values for JSON."""
        out = None if self.out is None else str(self.out)
        return {**asdict(self), "path": str(self.path), "out": out}


def repair(path: str | Path, out: str | Path, *, overwrite: bool = False) -> RepairReport:
    """Write a copy of an ONNX file whose group norms are right wherever it runs.

    A norm that goes wrong somewhere (`inspect`) becomes one with the mean subtracted, reshape,
    InstanceNormalization, scale and shift; see `accurate`. Names of inputs, outputs and weights,
    the opset, and all other nodes stay. When no norm goes wrong, nothing is written.

    Args:
        path: of the file, which is not changed.
        out: of the copy. Weights that the file keeps in others are not copied if it is in the same
            folder.
        overwrite: replace a file that is there.

    Raises:
        ExportError: the file cannot be read, or the copy not be written; nothing is left of it.
    """
    file, target = read_file(Path(path)), Path(out)
    check_target(file, target, overwrite)
    places, unclear = look_into(file)
    wrong = [place for place in places if place.norm.is_wrong]
    chosen, kept = [], []
    for place in wrong:
        norm = _with_reason(place.norm)
        if norm.kept:
            kept.append(norm)
        else:
            chosen.append(place)
    if chosen:
        names = set(map(str, names_in(file.model.graph)))
        for graph in {id(place.graph): place.graph for place in chosen}.values():
            _rewrite(graph, [p for p in chosen if p.graph is graph], file, names)
        write_model(file, target)
    return RepairReport(
        path=file.path,
        out=target if chosen else None,
        repaired=tuple(place.norm for place in chosen),
        kept=tuple(kept),
        right=len(places) - len(wrong),
        not_looked_into=unclear,
    )


def _with_reason(norm: FoundNorm) -> FoundNorm:
    """The norm with the reason why it cannot be written anew, if there is one."""
    if norm.kept:
        return norm
    if norm.dtype not in _TYPES:
        return replace(norm, kept=f"its type is {norm.dtype or 'not known'}")
    if not norm.channels or norm.channels % norm.groups:
        number = norm.channels or "not known"
        return replace(norm, kept=f"its number of channels is {number}, of groups {norm.groups}")
    return norm


def _rewrite(graph: Graph, places: list[Place], file: OnnxFile, names: set[str]) -> None:
    """Put other nodes in the places of norms; a graph's nodes are exchanged all at once."""
    from onnx import NodeProto

    instead: dict[int, list[NodeProto]] = {}
    removed: set[int] = set()
    constants = []
    for place in places:
        written, last, gone = _written(place, file, names)
        instead[last] = written.nodes
        removed |= gone
        constants += written.constants
    read_anew = {name for new in instead.values() for node in new for name in node.input}
    removed |= _unread(graph, removed, read_anew)
    nodes: list[NodeProto] = []
    for index, node in enumerate(graph.proto.node):
        copy = NodeProto()
        copy.CopyFrom(node)
        nodes += instead.get(index, []) if index in removed else [copy]
    dropped = {name for i in removed for name in graph.proto.node[i].output}
    read_before = {name for name, readers in graph.readers.items() if readers}
    del graph.proto.node[:]
    graph.proto.node.extend(nodes)
    graph.proto.initializer.extend(constants)
    made = {name for node in nodes for name in node.output}
    _drop(graph.proto.value_info, {name for name in dropped if name not in made})
    still = {name for node in all_nodes(nodes) for name in node.input} | graph.held
    inputs = {value.name for value in graph.proto.input}
    _drop(graph.proto.initializer, read_before - still - inputs)


def _written(place: Place, file: OnnxFile, names: set[str]) -> tuple[Written, int, set[int]]:
    """The new nodes of a norm, the index that they stand at, and those that they replace."""
    norm, graph, region = place.norm, place.graph, place.region
    if region is not None and region.core is not None and norm.dtype in ("float32", "float64"):
        region = region.core  # scale and shift that follow stay
    output = norm.output if region is None else region.output

    def named(hint: str) -> str:
        base = name = f"{output}.{hint}"
        number = 1
        while name in names:
            number += 1
            name = f"{base}_{number}"
        names.add(name)
        return name

    written = Written(file.opset, named)
    if region is None:
        assert place.node is not None
        node = graph.proto.node[place.node]
        scale, shift = (*node.input, "", "")[1:3]
        affine = Affine(scale or None, shift or None, per_group=file.opset < 21)
        last, gone = place.node, {place.node}
    else:
        affine = _fitted(region, written, norm.dtype)
        last, gone = region.nodes[-1], set(region.nodes)
    write_accurate(
        written, norm.input, output, groups=norm.groups, channels=norm.channels, eps=norm.eps,
        rank=None if norm.shape is None else len(norm.shape), channels_last=norm.channels_last,
        type_number=graph.type_of(norm.input), affine=affine, values=norm.values_per_group,
    )  # fmt: skip
    _confirm(norm, region, written, affine, output)
    written.nodes[-1].name = graph.proto.node[last].name  # which is free now
    return written, last, gone


def _fitted(region: Region, written: Written, dtype: str) -> Affine:
    """Constants of the scale and shift that a region has inside."""
    found = region.identified
    kind = np.float64 if dtype == "float64" else np.float32
    scale = shift = None
    if found.has_scale:
        scale = written.constant(found.weight.astype(kind), "scale")
    if found.has_shift:
        shift = written.constant(found.bias.astype(kind), "shift")
    return Affine(scale, shift, is_single=kind is np.float32)


def _confirm(
    norm: FoundNorm, region: Region | None, written: Written, affine: Affine, output: str
) -> None:
    """Compute the new nodes in float64 and compare them with what they replace.

    Raises:
        ExportError: they differ.
    """
    rng = np.random.default_rng(0)
    shape = (2, norm.channels, 3, 5)[: None if norm.shape is None else len(norm.shape)]
    shape = (*shape, *(2 for _ in range(len(norm.shape or ()) - 4)))
    axis = 1
    if norm.channels_last:
        shape, axis = (shape[0], *shape[2:], norm.channels), len(shape) - 1
    if region is not None:
        shape, axis = region.sizes.shape, region.identified.axis
    arrays: dict[str, Array] = {norm.input: rng.standard_normal(shape) * 3 + 5}
    for tensor in written.constants:
        arrays[tensor.name] = tensor_array(tensor, Path())
    count = norm.groups if affine.per_group else norm.channels
    for name in (affine.scale, affine.shift):
        if name and name not in arrays:
            arrays[name] = rng.uniform(0.5, 1.5, count)
    with without_warnings():
        for node in written.nodes:
            inputs = [arrays[name] for name in node.input]
            arrays[node.output[0]] = evaluate(node, inputs, rounded=False)
    x = arrays[norm.input]
    if region is not None:
        expected = region(x)
    else:
        expected = group_norm(x, norm.groups, norm.eps, axis)
        repeats = norm.channels // count
        for name, step in ((affine.scale, np.multiply), (affine.shift, np.add)):
            if name:
                values = per_channel(arrays[name].repeat(repeats), x.ndim, axis)
                expected = step(expected, values)
    error = np.abs(arrays[output] - expected).max()
    if not error <= 10 * _SAME * np.abs(expected).max():
        raise ExportError(
            f"the norm {norm.name!r} written anew differs by {error:.0e} from what it was; nothing "
            "is written, please report it with the file"
        )


def _unread(graph: Graph, removed: set[int], still: set[str]) -> set[int]:
    """The nodes that only nodes read that are removed: they made shapes and constants."""
    gone = set(removed)
    for index in range(max(gone, default=-1), -1, -1):
        node = graph.proto.node[index]
        readers = {r for name in node.output for r in graph.readers.get(name, ())}
        kept = graph.held.union(still).intersection(node.output)
        if readers and readers <= gone and not kept:
            gone.add(index)
    return gone - removed


def _drop(entries: Any, names: set[str]) -> None:
    for index in range(len(entries) - 1, -1, -1):
        if entries[index].name in names:
            del entries[index]
