"""Nodes that compute group norm to the last digits, in operators that every runtime has.

Measured in ONNX Runtime 1.32, one thread, largest error at the means 0 to 10,000 of spread 1 and
milliseconds, for maps of 1x64x28x28 in 8 groups and 1x320x32x32 in 32 (the plain operator of opset
21 takes 0.053 and 0.403, and gives NaN at 10,000):

- the mean subtracted, then InstanceNormalization: 1e-6 and 2e-6; 0.037 and 0.276;
- two passes and what rounding left of the mean: 3e-6 and 6e-6; 0.041 and 0.303;
- pooled, with 1x1 convolutions: 2e-6 and 2e-6; 0.046 and 0.300, twice the first for small maps.

InstanceNormalization adds up the values of a group one after the other, and is off by 3e-4 for
three million of them. So the first is taken where a group is known to have at most `MOST_VALUES`;
the second everywhere else, with means over the positions and then over the channels, which are off
by 1e-6 there. It also serves where there is no InstanceNormalization: for channels in the last
axis, and for float64, of which ONNX Runtime has no kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

MOST_VALUES = 16_384
"""Of a group, for InstanceNormalization."""


@dataclass(frozen=True)
class Affine:
    """Scale and shift: names of tensors of shape (C,), or (G,) where they are for each group.

    Attributes:
        scale: None for no scale.
        shift: None for no shift.
        per_group: whether they are for each group.
        is_single: whether they are float32 whatever the input's type is.
    """

    scale: str | None = None
    shift: str | None = None
    per_group: bool = False
    is_single: bool = False


@dataclass
class Written:
    """Nodes and constants that were made.

    Attributes:
        opset: that they are for.
        named: makes a name that nothing else has.
        nodes: in order.
        constants: that they need.
    """

    opset: int
    named: Callable[[str], str]
    nodes: list[NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)

    def constant(self, value: Any, hint: str) -> str:
        """Add a constant; its name."""
        from onnx.numpy_helper import from_array

        name = self.named(hint)
        self.constants.append(from_array(np.asarray(value), name))
        return name

    def __call__(self, operator: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        """Add a node; the name of its output."""
        from onnx.helper import make_node

        name = self.named(operator)
        out = out or name
        self.nodes.append(make_node(operator, list(inputs), [out], name=name, **attributes))
        return out

    def mean(self, x: str, *axes: int) -> str:
        """Add a mean that keeps its axes."""
        if self.opset < 18:
            return self("ReduceMean", x, axes=axes, keepdims=1)
        return self("ReduceMean", x, self.constant(np.array(axes, np.int64), "axes"), keepdims=1)

    def reshape(self, x: str, *shape: int) -> str:
        """Add a reshape to a constant shape; 0 keeps a size."""
        return self("Reshape", x, self.constant(np.array(shape, np.int64), "shape"))


def write_accurate(
    to: Written, x: str, y: str, *, groups: int, channels: int, eps: float, rank: int | None,
    channels_last: bool, type_number: int, affine: Affine, values: int | None,
) -> None:  # fmt: skip
    """Add the nodes of one group norm.

    Half types are computed in float32 and rounded once.

    Args:
        to: what they are added to.
        x: the input.
        y: the output's name.
        groups: G.
        channels: C.
        eps: added to the variance.
        rank: of the input; None if it is not known.
        channels_last: whether the channels are its last axis.
        type_number: ONNX's number of its type.
        affine: what follows the normalization.
        values: in a group; None if it is not known.
    """
    from onnx import TensorProto

    is_half = type_number in (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    is_double = type_number == TensorProto.DOUBLE
    out = "" if is_half else y
    scale, shift = affine.scale, affine.shift
    source = to("Cast", x, to=TensorProto.FLOAT) if is_half else x
    if is_half and not affine.is_single:
        scale, shift = (n and to("Cast", n, to=TensorProto.FLOAT) for n in (scale, shift))
    used = Affine(scale, shift, affine.per_group)
    if channels_last or is_double or values is None or values > MOST_VALUES:
        kind = np.float64 if is_double else np.float32
        parts = groups, channels // groups
        end = _two_passes(to, source, x, out, parts, eps, channels_last, kind, used)
    else:
        end = _instance_norm(to, source, x, out, groups, channels, eps, rank, used)
    if is_half:
        to("Cast", end, out=y, to=type_number)


def _instance_norm(
    to: Written, source: str, x: str, out: str, groups: int, channels: int, eps: float,
    rank: int | None, affine: Affine,
) -> str:  # fmt: skip
    view = to.reshape(source, 0, groups, -1)
    d = to("Sub", view, to.mean(view, 2))
    inner = affine if affine.per_group else Affine()
    ones, zeros = np.ones(groups, np.float32), np.zeros(groups, np.float32)
    scale = inner.scale or to.constant(ones, "ones")
    shift = inner.shift or to.constant(zeros, "zeros")
    y = to("InstanceNormalization", d, scale, shift, epsilon=eps)
    outer = Affine() if affine.per_group else affine
    shape = to("Shape", x)
    steps = [("Mul", outer.scale), ("Add", outer.shift)]
    steps = [(operator, name) for operator, name in steps if name]
    if rank is None and steps:  # three axes, whatever the input has
        y = to.reshape(y, 0, channels, -1)
        for operator, name in steps:
            y = to(operator, y, to.reshape(str(name), channels, 1))
        return to("Reshape", y, shape, out=out)
    y = to("Reshape", y, shape, out="" if steps else out)
    for operator, name in steps:
        values = to.reshape(str(name), channels, *(1 for _ in range((rank or 2) - 2)))
        y = to(operator, y, values, out=out if operator == steps[-1][0] else "")
    return y


def _two_passes(
    to: Written, source: str, x: str, out: str, parts: tuple[int, int], eps: float,
    channels_last: bool, kind: Any, affine: Affine,
) -> str:  # fmt: skip
    groups, size = parts
    axes = (1, 3) if channels_last else (3, 2)  # positions, then channels
    view = to.reshape(source, *((0, -1, groups, size) if channels_last else (0, groups, size, -1)))
    ending = () if channels_last else (1,)
    at = (groups, 1, *ending) if affine.per_group else (groups, size, *ending)

    def mean(values: str) -> str:
        return to.mean(to.mean(values, axes[0]), axes[1])

    d = to("Sub", view, mean(view))
    rest = mean(d)
    square = mean(to("Mul", d, d))
    variance = to("Sub", square, to("Mul", rest, rest))
    root = to("Sqrt", to("Add", variance, to.constant(np.array(eps, kind), "eps")))
    a = to("Reciprocal", root)
    if affine.scale:
        a = to("Mul", a, to.reshape(affine.scale, *at))
    y = to("Sub", to("Mul", d, a), to("Mul", rest, a))
    if affine.shift:
        y = to("Add", y, to.reshape(affine.shift, *at))
    return to("Reshape", y, to("Shape", x), out=out)
