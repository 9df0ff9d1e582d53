"""How an array stands beside PyTorch's: the order of its axes, and tensors as arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from groupnorm.frameworks.weights.problems import WeightsError

Array = np.ndarray[Any, Any]


def _spatial(array: Array) -> tuple[int, ...]:
    return tuple(range(array.ndim - 2))


def _depthwise_to_torch(array: Array) -> Array:
    *kernel, channels, multiplier = array.shape
    turned = array.transpose(array.ndim - 2, array.ndim - 1, *_spatial(array))
    return turned.reshape(channels * multiplier, 1, *kernel)


def _depthwise_from_torch(array: Array, shape: Sequence[int]) -> Array:
    *kernel, channels, multiplier = shape
    turned = array.reshape(channels, multiplier, *kernel)
    return turned.transpose(*range(2, turned.ndim), 0, 1)


# layout -> (to PyTorch, from PyTorch to an array of a shape)
LAYOUTS: dict[str, tuple[Callable[[Array], Array], Callable[[Array, Sequence[int]], Array]]] = {
    "same": (lambda a: a, lambda a, shape: a),
    "dense": (lambda a: a.T, lambda a, shape: a.T),
    "conv": (
        lambda a: a.transpose(a.ndim - 1, a.ndim - 2, *_spatial(a)),
        lambda a, shape: a.transpose(*range(2, a.ndim), 1, 0),
    ),
    "flipped": (
        lambda a: np.flip(a, _spatial(a)).transpose(a.ndim - 2, a.ndim - 1, *_spatial(a)),
        lambda a, shape: np.flip(a.transpose(*range(2, a.ndim), 0, 1), _spatial(a)),
    ),
    "depthwise": (_depthwise_to_torch, _depthwise_from_torch),
}
"""How an array stands beside PyTorch's; (*k) are the axes of a kernel.

========= ============================================ ============================
layout    the array                                    in PyTorch
========= ============================================ ============================
same      as in PyTorch
dense     (in, out)                                    (out, in)
conv      (*k, in / groups, out)                       (out, in / groups, *k)
conv      transposed convolution (*k, out, in)         (in, out, *k)
flipped   transposed convolution (*k, in, out), k      (in, out, *k)
          from its end
depthwise (*k, channels, multiplier)                   (channels * multiplier, 1, *k)
========= ============================================ ============================
"""


def layout_to_torch(array: Array, layout: str) -> Array:
    """The array as PyTorch has it; a copy in C order where the axes move."""
    return np.ascontiguousarray(LAYOUTS[layout][0](array)).reshape(_torch_shape(array, layout))


def layout_from_torch(array: Array, layout: str, shape: Sequence[int]) -> Array:
    """PyTorch's array in another layout, of the shape `shape`.

    Raises:
        WeightsError: it has another shape.
    """
    array = np.asarray(array)
    expected = torch_shape(shape, layout)
    if array.shape != expected:
        raise WeightsError(
            f"an array of shape {tuple(shape)} takes {expected} from PyTorch, got {array.shape}"
        )
    return np.ascontiguousarray(LAYOUTS[layout][1](array, shape)).reshape(shape)


def torch_shape(shape: Sequence[int], layout: str) -> tuple[int, ...]:
    """The shape in PyTorch of an array of the shape `shape`."""
    return _torch_shape(np.broadcast_to(np.int8(0), tuple(shape)), layout)


def _torch_shape(array: Array, layout: str) -> tuple[int, ...]:
    return LAYOUTS[layout][0](array).shape


def as_numpy(tensor: Any) -> Array:
    """A copy of a tensor's numbers, bit for bit; bfloat16 as the type of ml_dtypes.

    Keras's backends and JAX bring ml_dtypes.
    """
    import torch

    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype != torch.bfloat16:
        return np.array(tensor.numpy())
    import ml_dtypes

    return np.array(tensor.view(torch.int16).numpy()).view(ml_dtypes.bfloat16)


def as_tensor(array: Array) -> Any:
    """The inverse of `as_numpy`: a tensor on the CPU with its own memory."""
    import torch

    array = np.array(array, order="C")
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
