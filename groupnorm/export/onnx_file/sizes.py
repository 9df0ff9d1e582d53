"""Shapes at which a part of a graph may be computed, where the file does not tell all sizes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from groupnorm.export.onnx_file.evaluate import Array, NotEvaluatedError, is_float
from groupnorm.export.onnx_file.graph import Graph

_MOST = 24
"""Shapes that are tried."""


@dataclass(frozen=True)
class Sizes:
    """A shape that a part of a graph is computed at.

    Attributes:
        shape: of the input.
        named: the sizes of axes that have names.
        other: another shape and its names, where sizes may change.
        is_guess: whether the file does not tell the number of channels.
    """

    shape: tuple[int, ...]
    named: Mapping[str, int]
    other: Sizes | None = None
    is_guess: bool = False


def likely_sizes(graph: Graph, source: str, nodes: Iterable[int]) -> list[Sizes]:
    """Shapes at which a part of a graph may be computed, the likeliest first."""
    known = graph.shape(source)
    constants = list(_constants(graph, nodes))
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
        is_guess = isinstance(base[1], str) and isinstance(base[-1], str)
        if is_guess:
            options = [
                (*base[:axis], size, *base[axis + 1 :])
                for axis in dict.fromkeys((1, len(base) - 1))
                for size in channels
            ]
        found += [replace(_filled(option), is_guess=is_guess) for option in options]
        found += [
            Sizes(shape, {n: s for n, s in zip(base, shape, strict=True) if isinstance(n, str)})
            for shape in written
            if len(shape) == len(base)
            and all(isinstance(n, str) or n == s for n, s in zip(base, shape, strict=True))
        ]
    return found[:_MOST]


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


def _constants(graph: Graph, nodes: Iterable[int]) -> Iterator[Array]:
    for index in nodes:
        for name in graph.proto.node[index].input:
            if name and graph.is_known(name):
                try:
                    yield graph.value(name, {})
                except NotEvaluatedError:
                    continue
