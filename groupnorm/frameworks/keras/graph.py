"""What lies in front of a layer, where a Keras model records it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from groupnorm.frameworks.weights.conventions import Pads

PADDINGS = (layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D)
_NORMS = (layers.GroupNormalization, layers.LayerNormalization, layers.BatchNormalization)
# what computes each element on its own
_ELEMENTWISE = (
    layers.Activation, layers.ReLU, layers.LeakyReLU, layers.PReLU, layers.ELU, layers.Identity,
    layers.ActivityRegularization, layers.Rescaling,
)  # fmt: skip
_NOISE = (
    layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D,
    layers.AlphaDropout, layers.GaussianDropout, layers.GaussianNoise,
)  # fmt: skip
_ORDER_KEPT = (*_ELEMENTWISE, *_NOISE, *_NORMS, layers.Softmax, layers.UnitNormalization)
_MERGES = (
    layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum, layers.Minimum,
    layers.Concatenate,
)  # fmt: skip
# what pads inside itself, if at all, and whose output has no zeros of what came before
_FRESH = (
    layers.Conv1D, layers.Conv2D, layers.Conv3D,
    layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose,
    layers.DepthwiseConv1D, layers.DepthwiseConv2D, layers.SeparableConv1D, layers.SeparableConv2D,
    layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D,
    layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D,
    layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D,
    layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D,
)  # fmt: skip

CHANNELS = "C"


@dataclass(frozen=True)
class Flattened:
    """An axis that a map was flattened to.

    Attributes:
        axes: those of the map: spatial ones by number, and `CHANNELS`.
        layer: the name of the layer that flattens.
        cure: what gives PyTorch's order, (C, H, W).
    """

    axes: tuple[int | str, ...]
    layer: str
    cure: str

    @property
    def as_in_torch(self) -> bool:
        """Whether the channels come first, and the spatial axes in their order."""
        return self.axes == torch_order(self.axes)


Axes = tuple[int | str | Flattened, ...]
"""What each axis of a tensor is, behind the batch axis."""


def torch_order(axes: Iterable[int | str]) -> tuple[int | str, ...]:
    """The axes of a map as PyTorch has them."""
    return tuple(sorted(axes, key=lambda axis: -1 if isinstance(axis, str) else axis))


@dataclass(frozen=True)
class Border:
    """What padding layers leave around a map.

    Attributes:
        pads: rows of padding; () is none.
        changed_by: a layer behind the padding that makes other numbers of its zeros.
        seen: False where no graph shows what comes before.
    """

    pads: Pads = ()
    changed_by: str | None = None
    seen: bool = True


UNSEEN = Border(seen=False)


class Graph:
    """The calls of a model's layers, one behind another.

    Functional models and Sequential ones record them, also inside one another; nothing records what
    a subclassed model calls.

    Args:
        model: the model.
        below: all layers below it.
        compared: padding layers that have a partner in PyTorch, so that they are no border.
    """

    def __init__(self, model: Any, below: Iterable[Any], compared: Iterable[Any] = ()) -> None:
        everything = [model, *below]
        self._compared = set(map(id, compared))
        self._borders: dict[int, Border] = {}  # what `border` found, by the id of the node
        self._nodes: dict[int, list[Any]] = {}  # of a layer, by its id
        self._producers: dict[int, Any] = {}  # node of a tensor, by its id
        self._consumers: dict[int, list[Any]] = {}  # layers that take a tensor, by its id
        self._arguments: dict[int, list[Any]] = {}  # of a nested model's input, by its id
        for functional in filter(None, map(_functional, everything)):
            for node in (node for nodes in functional._nodes_by_depth.values() for node in nodes):
                self._nodes.setdefault(id(node.operation), []).append(node)
                self._producers |= dict.fromkeys(map(id, node.outputs), node)
                for tensor in node.arguments.keras_tensors:
                    self._consumers.setdefault(id(tensor), []).append(node.operation)
                inner = _functional(node.operation)
                for inside, outside in zip(
                    inner.inputs if inner else (), node.arguments.keras_tensors, strict=False
                ):
                    self._arguments.setdefault(id(inside), []).append(outside)
        outermost = _functional(model)
        self._inputs = {id(tensor) for tensor in outermost.inputs} if outermost else set()
        formats = {
            layer.data_format
            for layer in everything
            if isinstance(layer, _FRESH) and hasattr(layer, "data_format")
        }
        self._format = formats.pop() if len(formats) == 1 else keras.config.image_data_format()

    def calls(self, layer: Any) -> list[Any]:
        """The nodes of a layer; none where no graph has it."""
        return self._nodes.get(id(layer), [])

    @property
    def pads_by_operation(self) -> bool:
        """Whether `keras.ops.pad` is among the calls."""
        nodes = self._producers.values()
        return any(type(node.operation).__name__ == "Pad" for node in nodes)

    def default_axes(self, rank: int) -> Axes:
        """Of a tensor of which nothing else is known; `rank` counts the batch axis."""
        return _map_axes(rank, self._format)

    # ---- Order of the axes ----------------------------------------------------------------------

    def axes_before(self, node: Any) -> list[Axes]:
        """What the axes of each input of a call are."""
        return [
            self._axes(source, len(tensor.shape))
            for tensor in node.arguments.keras_tensors
            for source in self._origins(tensor)
        ]

    def _axes(self, node: Any, rank: int) -> Axes:
        layer = node and node.operation
        operation = type(layer).__name__ if _is_operation(layer) else ""  # of keras.ops
        if isinstance(layer, (layers.Flatten, layers.Reshape)) or operation == "Reshape":
            return self._reshaped(node, layer)
        if operation == "Transpose" and layer.axes and layer.axes[0] == 0:
            axes = self.axes_before(node)[0]
            return tuple(axes[axis - 1] for axis in layer.axes[1:])
        inputs = node.arguments.keras_tensors if operation else []
        if any(tensor.shape == node.outputs[0].shape for tensor in inputs):
            return self._merged(node)
        if isinstance(layer, layers.Permute):
            axes = self.axes_before(node)[0]
            return tuple(axes[dim - 1] for dim in layer.dims)
        if isinstance(layer, (*_ORDER_KEPT, *_MERGES)):
            return self._merged(node)
        if isinstance(layer, layers.Dense):
            return _map_axes(rank, "channels_last")
        return _map_axes(rank, getattr(layer, "data_format", None) or self._format)

    def _merged(self, node: Any) -> Axes:
        """Those of one input, in another order than PyTorch's if there is such a one."""
        found = self.axes_before(node)
        other = [axes for axes in found if not all(map(_as_in_torch, axes))]
        return max(other or found, key=len)

    def _reshaped(self, node: Any, layer: Any) -> Axes:
        axes, shape = self.axes_before(node)[0], node.arguments.keras_tensors[0].shape[1:]
        result = node.outputs[0].shape[1:]
        rank = len(result) + 1
        plain = [axis for axis in axes if not isinstance(axis, Flattened)]
        flattened = [axis for axis in axes if isinstance(axis, Flattened)]
        if flattened:
            return (*range(rank - 2), flattened[0])
        if len(axes) == 1:
            first = rank > 3 and self.turned_behind(node)
            return _map_axes(rank, "channels_first" if first else self._format)
        if rank > 2 and result[-1] == shape[-1] and axes[-1] == CHANNELS:
            return _map_axes(rank, "channels_last")
        order = torch_order(plain)
        cure = f"put Permute({tuple(plain.index(axis) + 1 for axis in order)}) before it"
        if getattr(layer, "data_format", None) == "channels_first":
            if tuple(plain) == order:
                cure = 'build it with data_format="channels_last", which moves no axis'
            else:
                cure += ', and build it with data_format="channels_last"'
            plain, shape = [*plain[1:], plain[0]], (*shape[1:], shape[0])
        kept = tuple(axis for axis, size in zip(plain, shape, strict=True) if size != 1)
        flat = Flattened(kept, layer.name, cure)
        return (*range(rank - 2), CHANNELS if len(kept) < 2 else flat)

    def turned_behind(self, node: Any) -> bool:
        """Whether all that takes a map (C, H, W) of a call makes (H, W, C) of it."""
        dims = (*range(2, len(node.outputs[0].shape)), 1)
        taking = self._consumers.get(id(node.outputs[0]), [])
        return bool(taking) and all(
            isinstance(layer, layers.Permute) and layer.dims == dims for layer in taking
        )

    # ---- Padding --------------------------------------------------------------------------------

    def border(self, node: Any) -> Border:
        """What padding layers leave around the map that a call takes."""
        if id(node) not in self._borders:
            found = {
                self._border_of(source)
                for tensor in node.arguments.keras_tensors
                for source in self._origins(tensor)
            }
            most = max(found, key=lambda border: border.pads)
            self._borders[id(node)] = most if len(found) == 1 else replace(most, seen=False)
        return self._borders[id(node)]

    def _border_of(self, node: Any) -> Border:
        if node is None:
            return UNSEEN
        layer = node.operation
        if isinstance(layer, (layers.InputLayer, *_FRESH)):
            return Border()
        front = self.border(node)
        if isinstance(layer, PADDINGS):
            pads = padding_of(layer)
            if id(layer) in self._compared or not any(map(any, pads)):
                return front
            return Border(add(front.pads, pads), front.changed_by, front.seen)
        if isinstance(layer, (*_NOISE, *_MERGES)) or not front.pads:
            same = isinstance(layer, (*_ORDER_KEPT, *_MERGES)) or (
                # reshapes and the like move no zeros where there are none; what a layer of
                # another class does is unknown
                front.seen
                and type(layer).__module__.partition(".")[0] == "keras"
                and not isinstance(layer, layers.Lambda)
                and type(layer).__name__ != "Pad"
            )
            return front if same else UNSEEN
        if isinstance(layer, _ELEMENTWISE) and _keeps_zero(layer, node):
            return front
        if isinstance(layer, (*_ORDER_KEPT, layers.Dense)):
            return Border(front.pads, front.changed_by or layer.name, front.seen)
        return replace(front, seen=False)

    # ---- Tensors --------------------------------------------------------------------------------

    def _origins(self, tensor: Any) -> Iterator[Any]:
        """The nodes that make a tensor; None where that is unknown."""
        node = self._producers.get(id(tensor))
        inner = None if node is None else _functional(node.operation)
        if node is not None and inner is not None:
            position = [id(output) for output in node.outputs].index(id(tensor))
            yield from self._origins(inner.outputs[position])
        elif id(tensor) in self._arguments:
            for argument in self._arguments[id(tensor)]:
                yield from self._origins(argument)
        elif node and isinstance(node.operation, layers.InputLayer):
            yield node if id(tensor) in self._inputs else None
        else:
            yield node


def padding_of(layer: Any) -> Pads:
    """What a padding layer adds at each spatial axis."""
    given = layer.padding if isinstance(layer.padding[0], tuple) else (layer.padding,)
    return tuple((int(before), int(after)) for before, after in given)


def add(pads: Pads, more: Pads) -> Pads:
    """The sum of two paddings, of which () is none."""
    if not (pads and more):
        return pads or more
    return tuple((a + c, b + d) for (a, b), (c, d) in zip(pads, more, strict=True))


def _functional(layer: Any) -> Any:
    """The part of a layer that records calls, or None."""
    if isinstance(layer, keras.Sequential):
        return layer._functional
    return layer if hasattr(layer, "_nodes_by_depth") else None


def _is_operation(layer: Any) -> bool:
    return type(layer).__module__.startswith("keras.src.ops.")


def _map_axes(rank: int, data_format: str) -> Axes:
    spatial = range(max(rank - 2, 0))
    return (CHANNELS, *spatial) if data_format == "channels_first" else (*spatial, CHANNELS)


def _as_in_torch(axis: int | str | Flattened) -> bool:
    return not isinstance(axis, Flattened) or axis.as_in_torch


def _keeps_zero(layer: Any, node: Any) -> bool:
    """Whether a layer that computes each element on its own makes 0 of 0."""
    shape = [size or 1 for size in node.arguments.keras_tensors[0].shape]
    if math.prod(shape[1:]) == 0:
        return True
    zeros = ops.zeros(shape, dtype=layer.compute_dtype)
    return not np.any(ops.convert_to_numpy(layer.call(zeros)))
