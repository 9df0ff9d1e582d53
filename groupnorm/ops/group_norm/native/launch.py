"""Loading the C++ kernels for the CPU, and calling them on tensors."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from groupnorm.ops.group_norm import reference
from groupnorm.ops.group_norm.activations import NUMBERS
from groupnorm.ops.group_norm.arguments import check_backward_arguments
from groupnorm.ops.group_norm.layout import dense, match_strides
from groupnorm.ops.group_norm.memory import all_plain, check_memory


def _load() -> tuple[ModuleType | None, str]:
    """The compiled module, or None and the reason."""
    try:
        from groupnorm.ops.group_norm.native import _native  # type: ignore[attr-defined]

        _native.set_exchange_api(getattr(Tensor, "__dlpack_c_exchange_api__", None))
    except (ImportError, AttributeError) as error:  # not there, or of an older version
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
STATISTICS = 3  # of a group, kept for the backward pass: mean, rstd, what rounding of the mean left


def instruction_sets() -> list[str]:
    """The instruction sets of this processor that there are kernels for, the fastest first."""
    return list(reversed(_kernels.instruction_sets())) if _kernels is not None else []


def quick_forward(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str | None,
    residual: Tensor | None,
    with_statistics: bool,
    out: Tensor | None = None,
) -> Any:
    """Output, or output and statistics in one axis; None where the tensors do not fit as they are.

    They are only read where they are plain, dense memory on the CPU that is all there, of shapes
    and dtypes that fit. With `out`, statistics come back where a sum of squares overflowed: see
    `finish`.
    """
    return _kernels.forward(  # type: ignore[union-attr]
        input, weight, bias, residual, out, num_groups=num_groups, images=0,
        activation=NUMBERS.get(activation), threads=torch.get_num_threads(), eps=eps,
        with_statistics=with_statistics,
    )  # fmt: skip


def quick_backward(
    grad_output: Tensor,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor,
    activation: str | None,
    residual: Tensor | None,
    needs_residual: bool,
) -> Any:
    """As `launch_backward`; None where the tensors do not fit as they are."""
    return _kernels.backward(  # type: ignore[union-attr]
        input, weight, bias, residual, grad_output, statistics, num_groups=num_groups, images=0,
        activation=NUMBERS[activation], threads=torch.get_num_threads(), eps=0.0,
        needs_residual=needs_residual,
    )  # fmt: skip


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
    """Output; mean, rstd and what rounding of the mean left, (3, N, G), unless they are not wanted.

    Raises:
        RuntimeError: a tensor has no memory.
    """
    x = input
    found = quick_forward(x, num_groups, weight, bias, eps, activation, residual, with_statistics)
    if found is None:
        input, weight, bias, residual = _plain(input, weight, bias, residual)
        x, _ = dense(input)
        weight, bias = _parameters(weight, bias, x.dtype)
        residual = None if residual is None else match_strides(x, residual)
        found = quick_forward(
            x, num_groups, weight, bias, eps, activation, residual, with_statistics
        )
    if found is None and x.numel():  # a sum of squares overflowed
        y = torch.empty_like(x)
        found = quick_forward(x, num_groups, weight, bias, eps, activation, residual, True, y)
        if found is not None:
            finish(y, found[1], x, num_groups, weight, bias, eps, activation, residual)
    if found is None:  # no values
        y, mean, rstd = reference.forward(x, num_groups, weight, bias, eps, activation, residual)
        return match_strides(x, y), torch.stack([mean, rstd, torch.zeros_like(mean)])
    y, flat = found if isinstance(found, tuple) else (found, None)
    return y, flat.view(STATISTICS, input.size(0), num_groups) if with_statistics else None


def finish(
    out: Tensor,
    statistics: Tensor,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str | None,
    residual: Tensor | None,
) -> None:
    """Compute the groups that the kernels left, whose rstd is NaN: a sum of squares overflowed.

    They are taken for the groups of one sample. Where `out` is not the input nothing else changes
    by a bit. In place the kernels leave the input of such groups in `out`: on channels_last and
    where rows are short, that of their whole sample, whose other groups are then as if computed by
    the reference.
    """
    mean, rstd, residual_mean = statistics.view(STATISTICS, -1, num_groups)
    n, g = rstd.isnan().nonzero(as_tuple=True)
    size = input.size(1) // num_groups
    shape = (input.size(0), num_groups, size, *input.shape[2:])

    def picked(x: Tensor) -> Tensor:
        return x.view(shape)[n, g].flatten(0, 1).unsqueeze(0)

    w, b = (None if p is None else p.view(num_groups, size)[g].flatten() for p in (weight, bias))
    r = None if residual is None else picked(residual)
    y, m, s = reference.forward(picked(input), len(n), w, b, eps, activation, r)
    out.view(shape)[n, g] = y.view(len(n), size, *input.shape[2:])
    mean[n, g], rstd[n, g], residual_mean[n, g] = m[0], s[0], 0


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
    found: tuple[Tensor, Tensor, Tensor, Tensor | None] | None = quick_backward(
        grad_output, input, num_groups, weight, bias, statistics, activation, residual,
        needs_residual,
    )  # fmt: skip
    if found is not None:
        return found
    check_backward_arguments(
        grad_output, input, num_groups, weight, bias, statistics, residual, STATISTICS
    )
    grad_output, input, weight, bias, statistics, residual = _plain(
        grad_output, input, weight, bias, statistics, residual
    )
    x, _ = dense(input)
    weight, bias = _parameters(weight, bias, x.dtype)
    dy, statistics = match_strides(x, grad_output), statistics.contiguous()
    residual = None if activation is None or residual is None else match_strides(x, residual)
    found = quick_backward(
        dy, x, num_groups, weight, bias, statistics, activation, residual, needs_residual
    )
    if found is not None:
        return found
    # no values, or a group is so spread out that its gradients would leave the range of the type
    mean, rstd, _ = statistics.view(STATISTICS, -1, num_groups)
    dx, dweight, dbias, dz = reference.backward(
        dy, x, num_groups, weight, bias, mean, rstd, activation, residual
    )
    return match_strides(x, dx), dweight, dbias, match_strides(x, dz) if needs_residual else None


def launch_batch_norm(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, images: int
) -> tuple[Tensor, Tensor] | None:
    """Batch norm of every `images` consecutive images of an input that has values.

    Args:
        input: (N, C, *), N a multiple of `images`.
        weight: scale (C,) in the accumulation dtype, or None; `bias` alike.

    Returns:
        Output; means, rstd and biased variances of the K chunks as one tensor (3, K, C). None where
        a sum of squares or the input is not finite.

    Raises:
        RuntimeError: a tensor has no memory.
    """
    input, weight, bias = _plain(input, weight, bias)
    x, _ = dense(input)
    weight, bias = (None if p is None else p.contiguous() for p in (weight, bias))
    found: tuple[Tensor, Tensor] | None = _kernels.forward(  # type: ignore[union-attr]
        x, weight, bias, None, None, num_groups=x.size(1), images=images, activation=NUMBERS[None],
        threads=torch.get_num_threads(), eps=eps, with_statistics=True,
    )  # fmt: skip
    return found if found is None else (found[0], found[1].view(3, -1, x.size(1)))


def launch_batch_norm_backward(
    grad_output: Tensor, input: Tensor, weight: Tensor | None, statistics: Tensor, images: int
) -> tuple[Tensor, Tensor, Tensor] | None:
    """dx, dweight and dbias of `launch_batch_norm`, the last two in the accumulation dtype.

    None where a channel is so spread out that its gradients would leave the range of the type.

    Args:
        statistics: means and rstd (2, K, C).

    Raises:
        RuntimeError: a tensor has no memory.
        ValueError: tensors that do not fit together.
    """
    chunks, c = input.size(0) // images, input.size(1)
    accumulation = reference.statistics_dtype(input.dtype)
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
    grad_output, input, weight, statistics = _plain(grad_output, input, weight, statistics)
    x, _ = dense(input)
    weight = None if weight is None else weight.contiguous()
    dy, statistics = match_strides(x, grad_output), statistics.contiguous()
    found = _kernels.backward(  # type: ignore[union-attr]
        x, weight, None, None, dy, statistics, num_groups=c, images=images,
        activation=NUMBERS[None], threads=torch.get_num_threads(), eps=0.0, needs_residual=False,
    )  # fmt: skip
    return None if found is None else found[:3]


def _plain(*tensors: Tensor | None) -> list[Any]:
    """The tensors, of PyTorch's own class.

    Raises:
        RuntimeError: a tensor has no memory, or is not plain memory (zeros without memory, say).
    """
    if not all_plain(*tensors):
        raise RuntimeError("the C++ kernels take nothing but plain memory")
    check_memory(*tensors)
    return [None if t is None else t.as_subclass(Tensor) for t in tensors]


def _parameters(
    weight: Tensor | None, bias: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor | None, Tensor | None]:
    """Both contiguous, and in one dtype: the input's if they have it, else the statistics'."""
    given = [p for p in (weight, bias) if p is not None]
    if any(p.dtype != dtype for p in given):
        dtype = reference.statistics_dtype(dtype)
    weight, bias = (None if p is None else p.to(dtype).contiguous() for p in (weight, bias))
    return weight, bias
