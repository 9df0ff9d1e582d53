"""Loading the C++ kernels for the CPU, and calling them on tensors."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from groupnorm.ops import reference
from groupnorm.ops.activations import NUMBERS as _ACTIVATIONS
from groupnorm.ops.dense import dense, laid_out_as

_TYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}


def _load() -> tuple[ModuleType | None, str]:
    """The compiled module, or None and the reason."""
    try:
        from groupnorm.ops import _native  # type: ignore[attr-defined]
    except ImportError as error:
        return None, (
            f"the C++ kernels are not there ({error}); install g++ or clang and cmake, then "
            "install groupnorm again"
        )
    for path in (Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*"):
        run = getattr(ctypes.CDLL(str(path)), "torch_parallel_for", None)
        if run is not None:  # PyTorch's own threads
            _native.set_parallel_for(ctypes.cast(run, ctypes.c_void_p).value)
            return _native, ""
    return None, "this PyTorch has no torch_parallel_for; groupnorm needs torch 2.11 or later"


_kernels, why_off = _load()


def instruction_sets() -> list[str]:
    """The instruction sets of this processor that there are kernels for, the fastest first."""
    return list(_kernels.instruction_sets()) if _kernels is not None else []


def launch_forward(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str | None,
    residual: Tensor | None,
    with_statistics: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Output, and mean and rstd as one tensor (2, N, G) unless they are not wanted."""
    if input.numel() == 0:
        y, *statistics_of = reference.forward(
            input, num_groups, weight, bias, eps, activation, residual
        )
        return y, torch.stack(statistics_of)
    assert _kernels is not None
    x, channels_last = dense(input)
    wide = reference.statistics_dtype(x.dtype)
    weight, bias, narrow = _parameters(weight, bias, x.dtype, wide)
    residual = laid_out_as(x, residual)
    y = torch.empty_like(x)
    n, c = x.shape[:2]
    statistics, mean, rstd = None, 0, 0
    if with_statistics:
        statistics = x.new_empty((2, n, num_groups), dtype=wide)
        mean = statistics.data_ptr()
        rstd = mean + n * num_groups * statistics.element_size()
    _kernels.forward(
        n,
        c,
        num_groups,
        x.numel() // (n * c),
        channels_last,
        _TYPES[x.dtype],
        _ACTIVATIONS[activation],
        eps,
        torch.get_num_threads(),
        narrow,
        x.data_ptr(),
        _address(residual),
        _address(weight),
        _address(bias),
        y.data_ptr(),
        mean,
        rstd,
    )
    return y, statistics


def launch_backward(
    grad_output: Tensor,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor,
    activation: str | None,
    residual: Tensor | None,
    needs_residual: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """dx, dweight and dbias (in the statistics' dtype), and dresidual if it is needed.

    Without an activation dresidual is `grad_output`: then the caller may not ask for it.
    """
    if input.numel() == 0:
        mean, rstd = statistics
        dx, dweight, dbias, dz = reference.backward(
            grad_output, input, num_groups, weight, bias, mean, rstd, activation, residual
        )
        return dx, dweight, dbias, dz if needs_residual else None
    assert _kernels is not None
    x, channels_last = dense(input)
    wide = statistics.dtype
    weight, bias, narrow = _parameters(weight, bias, x.dtype, wide)
    residual = None if activation is None else laid_out_as(x, residual)
    dy = laid_out_as(x, grad_output)
    assert dy is not None
    dx = torch.empty_like(x)
    dresidual = torch.empty_like(x) if needs_residual else None
    n, c = x.shape[:2]
    dweight, dbias = x.new_empty(c, dtype=wide), x.new_empty(c, dtype=wide)
    address = statistics.data_ptr()
    _kernels.backward(
        n,
        c,
        num_groups,
        x.numel() // (n * c),
        channels_last,
        _TYPES[x.dtype],
        _ACTIVATIONS[activation],
        0.0,
        torch.get_num_threads(),
        narrow,
        x.data_ptr(),
        _address(residual),
        _address(weight),
        _address(bias),
        address,
        address + n * num_groups * statistics.element_size(),
        dy.data_ptr(),
        dx.data_ptr(),
        _address(dresidual),
        dweight.data_ptr(),
        dbias.data_ptr(),
    )
    return dx, dweight, dbias, dresidual


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _parameters(
    weight: Tensor | None, bias: Tensor | None, narrow: torch.dtype, wide: torch.dtype
) -> tuple[Tensor | None, Tensor | None, bool]:
    """Both without gaps, and in the dtype `narrow` (which is True then) or in `wide`."""
    is_narrow = (weight is None or weight.dtype == narrow) and (
        bias is None or bias.dtype == narrow
    )
    dtype = narrow if is_narrow else wide
    return _parameter(weight, dtype), _parameter(bias, dtype), is_narrow


def _parameter(parameter: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if parameter is None or (parameter.dtype == dtype and parameter.is_contiguous()):
        return parameter
    return parameter.to(dtype).contiguous()
