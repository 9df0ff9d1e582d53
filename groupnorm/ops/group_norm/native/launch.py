"""Loading the C++ kernels for the CPU, and calling them on tensors."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from groupnorm.ops.group_norm import reference
from groupnorm.ops.group_norm.activations import NUMBERS
from groupnorm.ops.group_norm.arguments import check_backward_arguments
from groupnorm.ops.group_norm.layout import dense, match_strides
from groupnorm.ops.group_norm.memory import address, check_memory

# The kernels' number, bytes, and the dtype of the statistics.
_TYPES = {
    torch.float32: (0, 4, torch.float32),
    torch.float64: (1, 8, torch.float64),
    torch.bfloat16: (2, 2, torch.float32),
    torch.float16: (3, 2, torch.float32),
}


def _load() -> tuple[ModuleType | None, str]:
    """The compiled module, or None and the reason."""
    try:
        from groupnorm.ops.group_norm.native import _native  # type: ignore[attr-defined]
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
    """Output, and mean and rstd as one tensor (2, N, G) unless they are not wanted.

    Raises:
        RuntimeError: a tensor has no memory.
    """
    if input.numel() == 0:
        y, *statistics_of = reference.forward(
            input, num_groups, weight, bias, eps, activation, residual
        )
        return y, torch.stack(statistics_of)
    assert _kernels is not None
    x, channels_last = dense(input)
    dtype = x.dtype
    number, itemsize, accumulation = _TYPES[dtype]
    weight, bias, same_dtype = _parameters(weight, bias, dtype, accumulation)
    if residual is not None:
        residual = match_strides(x, residual)
    y = torch.empty_like(x)
    n, c, count = x.size(0), x.size(1), x.numel()
    size = count * itemsize
    parameter_size = c * (itemsize if same_dtype else accumulation.itemsize)
    statistics, mean, rstd = None, 0, 0
    if with_statistics:
        statistics = x.new_empty(2, n, num_groups, dtype=accumulation)
        mean = statistics.data_ptr()
        rstd = mean + n * num_groups * accumulation.itemsize
    overflowed = _kernels.forward(
        num_samples=n,
        num_channels=c,
        num_groups=num_groups,
        num_positions=count // (n * c),
        channels_last=channels_last,
        type=number,
        activation=NUMBERS[activation],
        eps=eps,
        threads=torch.get_num_threads(),
        parameters_as_input=same_dtype,
        x=address(x, size),
        residual=address(residual, size),
        weight=address(weight, parameter_size),
        bias=address(bias, parameter_size),
        y=y.data_ptr(),
        mean=mean,
        rstd=rstd,
    )
    if overflowed:  # the sum of squares of a group, or the input itself is not finite
        y, *statistics_of = reference.forward(
            x, num_groups, weight, bias, eps, activation, residual
        )
        y, statistics = match_strides(x, y), torch.stack(statistics_of)
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

    Raises:
        RuntimeError: a tensor has no memory.
        ValueError: tensors that do not fit together.
    """
    check_backward_arguments(grad_output, input, num_groups, weight, bias, statistics, residual)
    if input.numel() == 0:
        mean, rstd = statistics
        dx, dweight, dbias, dz = reference.backward(
            grad_output, input, num_groups, weight, bias, mean, rstd, activation, residual
        )
        return dx, dweight, dbias, dz if needs_residual else None
    assert _kernels is not None
    x, channels_last = dense(input)
    number, itemsize, accumulation = _TYPES[x.dtype]
    weight, bias, same_dtype = _parameters(weight, bias, x.dtype, accumulation)
    residual = None if activation is None or residual is None else match_strides(x, residual)
    dy = match_strides(x, grad_output)
    dx = torch.empty_like(x)
    dresidual = torch.empty_like(x) if needs_residual else None
    n, c, count = x.size(0), x.size(1), x.numel()
    size = count * itemsize
    parameter_size = c * (itemsize if same_dtype else accumulation.itemsize)
    dweight, dbias = statistics.new_empty(c), statistics.new_empty(c)
    half = n * num_groups * accumulation.itemsize
    statistics = statistics.contiguous()
    mean = address(statistics, 2 * half)
    out_of_range = _kernels.backward(
        num_samples=n,
        num_channels=c,
        num_groups=num_groups,
        num_positions=count // (n * c),
        channels_last=channels_last,
        type=number,
        activation=NUMBERS[activation],
        eps=0.0,
        threads=torch.get_num_threads(),
        parameters_as_input=same_dtype,
        x=address(x, size),
        residual=address(residual, size),
        weight=address(weight, parameter_size),
        bias=address(bias, parameter_size),
        mean=mean,
        rstd=mean + half,
        dy=address(dy, size),
        dx=dx.data_ptr(),
        dresidual=0 if dresidual is None else dresidual.data_ptr(),
        dweight=dweight.data_ptr(),
        dbias=dbias.data_ptr(),
    )
    if out_of_range:
        group_mean, group_rstd = statistics
        dx, dweight, dbias, dz = reference.backward(
            dy, x, num_groups, weight, bias, group_mean, group_rstd, activation, residual
        )
        dx, dresidual = match_strides(x, dx), match_strides(x, dz) if needs_residual else None
    return dx, dweight, dbias, dresidual


def batch_norm_is_off() -> bool:
    """Whether the kernels are not there, or of a build that had none for batch norm."""
    return not hasattr(_kernels, "batch_norm_forward")


def launch_batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    images: int,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Batch norm of every `images` consecutive images of an input that has values.

    Args:
        input: (N, C, *), N a multiple of `images`.
        weight: scale (C,) in the accumulation dtype, or None; `bias` and the running statistics
            alike, which move by `momentum` towards the mean over the chunks.

    Returns:
        Output; means and rstd of the K chunks as one tensor (2, K, C); their biased variances
        (K, C). None, and no statistics have moved, where a sum of squares or the input is not
        finite.

    Raises:
        RuntimeError: a tensor has no memory.
    """
    assert _kernels is not None
    x, channels_last = dense(input)
    number, itemsize, accumulation = _TYPES[x.dtype]
    n, c, count = x.size(0), x.size(1), x.numel()
    positions, chunks = count // (n * c), n // images
    weight, bias = _parameter(weight, accumulation), _parameter(bias, accumulation)
    y = torch.empty_like(x)
    statistics = x.new_empty(2, chunks, c, dtype=accumulation)
    var = x.new_empty(chunks, c, dtype=accumulation)
    mean, step = statistics.data_ptr(), chunks * c * accumulation.itemsize
    parameter_size = c * accumulation.itemsize
    overflowed = _kernels.batch_norm_forward(
        num_chunks=chunks,
        images=images,
        num_channels=c,
        num_positions=positions,
        channels_last=channels_last or positions == 1,
        type=number,
        eps=eps,
        threads=torch.get_num_threads(),
        x=address(x, count * itemsize),
        weight=address(weight, parameter_size),
        bias=address(bias, parameter_size),
        y=y.data_ptr(),
        mean=mean,
        rstd=mean + step,
        var=var.data_ptr(),
        running_mean=address(running_mean, parameter_size),
        running_var=address(running_var, parameter_size),
        momentum=momentum,
    )
    return None if overflowed else (y, statistics, var)


def launch_batch_norm_backward(
    grad_output: Tensor, input: Tensor, weight: Tensor | None, statistics: Tensor, images: int
) -> tuple[Tensor, Tensor, Tensor] | None:
    """dx, dweight and dbias of `launch_batch_norm`, the last two in the accumulation dtype.

    None where a channel is so spread out that its gradients would leave the range of the type.

    Raises:
        RuntimeError: a tensor has no memory.
        ValueError: tensors that do not fit together.
    """
    assert _kernels is not None
    x, channels_last = dense(input)
    number, itemsize, accumulation = _TYPES[x.dtype]
    n, c, count = x.size(0), x.size(1), x.numel()
    chunks = n // images
    if (
        grad_output.shape != input.shape
        or grad_output.dtype != input.dtype
        or statistics.shape != (2, chunks, c)
        or statistics.dtype != accumulation
        or (weight is not None and (weight.shape != (c,) or weight.dtype != accumulation))
    ):
        raise ValueError(
            f"the tensors of the backward pass do not fit together: gradient {grad_output.dtype} "
            f"{tuple(grad_output.shape)}, input {input.dtype} {tuple(input.shape)}, statistics "
            f"{statistics.dtype} {tuple(statistics.shape)}. Were they changed by a hook on saved "
            "tensors?"
        )
    weight = _parameter(weight, accumulation)
    dy, dx = match_strides(x, grad_output), torch.empty_like(x)
    positions, size = count // (n * c), count * itemsize
    dweight, dbias = statistics.new_empty(c), statistics.new_empty(c)
    step = chunks * c * accumulation.itemsize
    statistics = statistics.contiguous()
    mean = address(statistics, 2 * step)
    out_of_range = _kernels.batch_norm_backward(
        num_chunks=chunks,
        images=images,
        num_channels=c,
        num_positions=positions,
        channels_last=channels_last or positions == 1,
        type=number,
        threads=torch.get_num_threads(),
        x=address(x, size),
        weight=address(weight, c * accumulation.itemsize),
        mean=mean,
        rstd=mean + step,
        dy=address(dy, size),
        dx=dx.data_ptr(),
        dweight=dweight.data_ptr(),
        dbias=dbias.data_ptr(),
    )
    return None if out_of_range else (dx, dweight, dbias)


def _parameters(
    weight: Tensor | None, bias: Tensor | None, dtype: torch.dtype, accumulation: torch.dtype
) -> tuple[Tensor | None, Tensor | None, bool]:
    """Both contiguous: in the input's dtype where they have it (then True), else in the other."""
    same_dtype = (weight is None or weight.dtype == dtype) and (bias is None or bias.dtype == dtype)
    wanted = dtype if same_dtype else accumulation
    return _parameter(weight, wanted), _parameter(bias, wanted), same_dtype


def _parameter(parameter: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if parameter is None or (parameter.dtype == dtype and parameter.is_contiguous()):
        return parameter
    check_memory(parameter)
    return parameter.to(dtype).contiguous()
