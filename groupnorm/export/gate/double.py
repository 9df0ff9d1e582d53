"""Networks computed in float64, whatever floating-point type they ask for on the way."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

_WIDE = {
    torch.float32: torch.float64,
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.complex64: torch.complex128,
    torch.complex32: torch.complex128,
}
_CASTS = (Tensor.float, Tensor.half, Tensor.bfloat16)


class _Double(TorchFunctionMode):
    """Puts float64 in the place of the narrower floating-point types in all that is called."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _CASTS:
            return Tensor.double(*args, **kwargs)
        if func is not Tensor.view:  # of a dtype: the same bits, read in another way
            args, kwargs = tree_map(_widened, (args, kwargs))
        return func(*args, **kwargs)


def _widened(value: Any) -> Any:
    return _WIDE.get(value, value) if isinstance(value, torch.dtype) else value


@contextlib.contextmanager
def in_double() -> Iterator[None]:
    """Within this context floating-point tensors are made and converted in float64 alone.

    So a network whose parameters and inputs are in float64 runs in it, though it makes constants in
    the default dtype, or converts to float32 and back on the way. The default dtype is that of the
    whole process: other threads have it, too, meanwhile.
    """
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Double():
            yield
    finally:
        torch.set_default_dtype(usual)
