"""A part of an ONNX graph in numpy: the operators that group norms are written in, and no others.

Floats are computed in float64. What is `rounded` is rounded after every operator to the type that
the file gives it, as by a runtime whose every operator is as good as can be: an error that remains
is the formula's own.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from onnx import NodeProto

Array = npt.NDArray[Any]
_Inputs = Sequence[Array | None]

STANDARD = ("", "ai.onnx")
"""Names of the domain of ONNX's own operators."""
LARGEST = 2**24
"""Elements of the largest tensor that is computed."""


class NotEvaluatedError(Exception):
    """An operator, a shape or a size that is not computed here."""


@contextmanager
def without_warnings() -> Iterator[None]:
    """Let numbers overflow, and 0 be divided by 0, in silence: the results tell."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


def is_standard(node: NodeProto) -> bool:
    """Whether a node's operator is one of ONNX's own."""
    return node.domain in STANDARD


def label(node: NodeProto) -> str:
    """What a node is called: its name, else its first output's, else its operator's."""
    return str(node.name or next(iter(node.output), "") or node.op_type)


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """The value of a node's attribute, or the default."""
    from onnx.helper import get_attribute_value

    found = next((a for a in node.attribute if a.name == name), None)
    return default if found is None else get_attribute_value(found)


def number(node: NodeProto, name: str, default: float) -> float:
    """The number of a node's attribute, or the default: where it is none, too."""
    value = attribute(node, name)
    return value if isinstance(value, int | float) else default


def evaluate(node: NodeProto, inputs: _Inputs, rounded: bool) -> Array:
    """The first output of one node.

    Args:
        node: its operator is in `OPERATORS`.
        inputs: one array for each input, None for one left out.
        rounded: see above; the arrays then have the file's types.

    Raises:
        NotEvaluatedError: it cannot be computed.
    """
    operator = OPERATORS.get(node.op_type) if is_standard(node) else None
    if operator is None:
        raise NotEvaluatedError(f"{node.op_type} is not computed")
    exact = [a.astype(np.float64) if a is not None and is_float(a.dtype) else a for a in inputs]
    try:
        result = np.asarray(operator(node, exact))
        if result.size > LARGEST:
            raise NotEvaluatedError(f"{node.op_type} makes {result.size:,} elements")
        if rounded and is_float(result.dtype):
            result = result.astype(_declared_type(node, inputs))
    except NotEvaluatedError:
        raise
    except Exception as error:  # a node that does not fit its inputs: the file is not ours
        raise NotEvaluatedError(f"{node.op_type}: {error}") from None
    return result


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether numbers of the type have a fraction; bfloat16 is no kind of numpy's own."""
    return bool(np.issubdtype(dtype, np.floating)) or dtype.name == "bfloat16"


def _declared_type(node: NodeProto, inputs: _Inputs) -> Any:
    if node.op_type == "Cast":
        from onnx.helper import tensor_dtype_to_np_dtype

        return tensor_dtype_to_np_dtype(attribute(node, "to"))
    types = [a.dtype for a in inputs if a is not None and is_float(a.dtype)]
    return types[0] if types else np.float32


def _checked(size: int) -> None:
    if size > LARGEST:
        raise NotEvaluatedError(f"a tensor of {size:,} elements")


def _pairwise(compute: Callable[..., Array]) -> Callable[[NodeProto, _Inputs], Array]:
    def operator(node: NodeProto, inputs: _Inputs) -> Array:
        arrays = [a for a in inputs if a is not None]
        _checked(math.prod(np.broadcast_shapes(*(a.shape for a in arrays))))
        result = arrays[0]
        for array in arrays[1:]:
            result = compute(result, array)
        return result

    return operator


def _divide(a: Array, b: Array) -> Array:
    return a / b if is_float(a.dtype) else (np.fix(a / b)).astype(a.dtype)


def _single(compute: Callable[[Array], Array]) -> Callable[[NodeProto, _Inputs], Array]:
    return lambda node, inputs: compute(_first(inputs))


def _first(inputs: _Inputs) -> Array:
    return _at(inputs, 0)


def _at(inputs: _Inputs, index: int) -> Array:
    array = inputs[index]
    if array is None:
        raise NotEvaluatedError(f"input {index} is left out")
    return array


def _optional(node: NodeProto, inputs: _Inputs, index: int, name: str) -> Array | None:
    """What is an input in new versions of an operator and an attribute in old ones."""
    if len(inputs) > index and inputs[index] is not None:
        return inputs[index]
    value = attribute(node, name)
    return None if value is None else np.asarray(value)


def _integers(array: Array | None) -> tuple[int, ...]:
    return () if array is None else tuple(int(i) for i in array.reshape(-1))


def _cast(node: NodeProto, inputs: _Inputs) -> Array:
    from onnx.helper import tensor_dtype_to_np_dtype

    array, to = _first(inputs), tensor_dtype_to_np_dtype(attribute(node, "to"))
    return array.astype(np.float64 if is_float(to) else to)


def _reduce(compute: Callable[..., Array]) -> Callable[[NodeProto, _Inputs], Array]:
    def operator(node: NodeProto, inputs: _Inputs) -> Array:
        axes = _integers(_optional(node, inputs, 1, "axes"))
        if not axes and attribute(node, "noop_with_empty_axes", 0):
            return _first(inputs)
        keep = bool(attribute(node, "keepdims", 1))
        return compute(_first(inputs), axis=axes or None, keepdims=keep)

    return operator


def _global_average(node: NodeProto, inputs: _Inputs) -> Array:
    x = _first(inputs)
    return np.asarray(x.mean(axis=tuple(range(2, x.ndim)), keepdims=True))


def _reshape(node: NodeProto, inputs: _Inputs) -> Array:
    x = _first(inputs)
    to = list(_integers(_optional(node, inputs, 1, "shape")))
    if not attribute(node, "allowzero", 0):
        to = [x.shape[i] if size == 0 else size for i, size in enumerate(to)]
    return x.reshape(to)


def _flatten(node: NodeProto, inputs: _Inputs) -> Array:
    x, axis = _first(inputs), attribute(node, "axis", 1)
    return x.reshape(math.prod(x.shape[:axis]), -1)


def _transpose(node: NodeProto, inputs: _Inputs) -> Array:
    return np.transpose(_first(inputs), attribute(node, "perm"))


def _unsqueeze(node: NodeProto, inputs: _Inputs) -> Array:
    return np.expand_dims(_first(inputs), _integers(_optional(node, inputs, 1, "axes")))


def _squeeze(node: NodeProto, inputs: _Inputs) -> Array:
    return np.squeeze(_first(inputs), _integers(_optional(node, inputs, 1, "axes")) or None)


def _expand(node: NodeProto, inputs: _Inputs) -> Array:
    x = _first(inputs)
    shape = np.broadcast_shapes(x.shape, _integers(_at(inputs, 1)))
    _checked(math.prod(shape))
    return np.broadcast_to(x, shape)


def _tile(node: NodeProto, inputs: _Inputs) -> Array:
    x, repeats = _first(inputs), _integers(_at(inputs, 1))
    _checked(x.size * math.prod(repeats))
    return np.tile(x, repeats)


def _concat(node: NodeProto, inputs: _Inputs) -> Array:
    return np.concatenate([a for a in inputs if a is not None], attribute(node, "axis", 0))


def _gather(node: NodeProto, inputs: _Inputs) -> Array:
    x, index, axis = _first(inputs), _at(inputs, 1), attribute(node, "axis", 0)
    _checked(x.size // max(1, x.shape[axis]) * index.size)
    return np.take(x, index, axis)


def _slice(node: NodeProto, inputs: _Inputs) -> Array:
    x = _first(inputs)
    starts, ends, axes, steps = (
        _integers(_optional(node, inputs, i, name))
        for i, name in enumerate(("starts", "ends", "axes", "steps"), 1)
    )
    parts = [slice(None)] * x.ndim
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        step = steps[i] if steps else 1
        parts[axes[i] if axes else i] = slice(start, end, step)
    return np.asarray(x[tuple(parts)])


def _filled(node: NodeProto, inputs: _Inputs) -> Array:
    from onnx.numpy_helper import to_array

    shape, value = _integers(_first(inputs)), attribute(node, "value")
    _checked(math.prod(shape))
    array = np.zeros(1, np.float32) if value is None else to_array(value)
    return np.full(shape, array.reshape(-1)[0])


def _shape(node: NodeProto, inputs: _Inputs) -> Array:
    start, end = attribute(node, "start", 0), attribute(node, "end")
    return np.asarray(_first(inputs).shape[start:end], np.int64)


def _matmul(node: NodeProto, inputs: _Inputs) -> Array:
    a, b = _first(inputs), _at(inputs, 1)
    _checked(a.size * (b.shape[-1] if b.ndim > 1 else 1))
    return np.asarray(np.matmul(a, b))


def _convolution(node: NodeProto, inputs: _Inputs) -> Array:
    """Of maps of one position each, where a convolution is a matrix for each group."""
    x, weight = _first(inputs), _at(inputs, 1)
    if math.prod(x.shape[2:]) != 1 or math.prod(weight.shape[2:]) != 1:
        raise NotEvaluatedError("a convolution of a map")
    if any(attribute(node, "pads", ())) or attribute(node, "auto_pad", b"NOTSET") != b"NOTSET":
        raise NotEvaluatedError("a convolution with padding")
    groups = attribute(node, "group", 1)
    parts = x.reshape(x.shape[0], groups, -1)
    matrices = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1])
    y: Array = np.einsum("ngi,goi->ngo", parts, matrices).reshape(len(x), -1, *x.shape[2:])
    if len(inputs) > 2 and inputs[2] is not None:
        y = y + inputs[2].reshape(-1, *(1 for _ in x.shape[2:]))
    return y


def _instance_norm(node: NodeProto, inputs: _Inputs) -> Array:
    x = _first(inputs)
    axes = tuple(range(2, x.ndim))
    shape = (-1, *(1 for _ in axes))
    y = _normalized(x, axes, attribute(node, "epsilon", 1e-5))
    return y * _at(inputs, 1).reshape(shape) + _at(inputs, 2).reshape(shape)


def _layer_norm(node: NodeProto, inputs: _Inputs) -> Array:
    x = _first(inputs)
    axis = attribute(node, "axis", -1) % x.ndim
    y = _normalized(x, tuple(range(axis, x.ndim)), attribute(node, "epsilon", 1e-5))
    y = y * _at(inputs, 1)
    return y if len(inputs) < 3 or inputs[2] is None else y + inputs[2]


def _normalized(x: Array, axes: tuple[int, ...], eps: float) -> Array:
    d = x - x.mean(axes, keepdims=True)
    return np.asarray(d / np.sqrt((d * d).mean(axes, keepdims=True) + eps))


OPERATORS: dict[str, Callable[[NodeProto, _Inputs], Array]] = {
    "Abs": _single(np.abs),
    "Add": _pairwise(np.add),
    "Cast": _cast,
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "Conv": _convolution,
    "Div": _pairwise(_divide),
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GlobalAveragePool": _global_average,
    "Identity": _single(lambda x: x),
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
    "Max": _pairwise(np.maximum),
    "Mul": _pairwise(np.multiply),
    "Neg": _single(np.negative),
    "Pow": _pairwise(np.power),
    "Reciprocal": _single(lambda x: 1 / x),
    "ReduceMean": _reduce(np.mean),
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "ReduceSumSquare": _reduce(lambda x, **how: np.sum(x * x, **how)),
    "Relu": _single(lambda x: np.maximum(x, 0)),
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _single(lambda x: np.asarray(x.size, np.int64)),
    "Slice": _slice,
    "Sqrt": _single(np.sqrt),
    "Squeeze": _squeeze,
    "Sub": _pairwise(np.subtract),
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
"""By their names in ONNX's own domain; each takes the node and its inputs."""

NORMS = {"InstanceNormalization", "LayerNormalization"}
"""The operators that centre and divide by a deviation in one."""
