"""Whether the tensors of a call fit together: no kernel reads beyond any of them."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor

from groupnorm.ops.group_norm.activations import check_activation
from groupnorm.ops.group_norm.memory import all_plain, check_memory, extent, traced, untraced
from groupnorm.ops.group_norm.reference import statistics_dtype


def check_types(
    input: Any,
    num_groups: Any,
    weight: Any,
    bias: Any,
    eps: Any,
    activation: Any,
    residual: Any,
    out: Any,
    backend: Any,
) -> None:
    """Check of what type each argument of `group_norm` is.

    Raises:
        TypeError: another one than it must be.
        ValueError: an unknown activation.
    """
    tensors = {"input": input, "weight": weight, "bias": bias, "residual": residual, "out": out}
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) and (tensor is not None or name == "input"):
            expected = "a tensor" if name == "input" else "a tensor or None"
            raise TypeError(f"{name} must be {expected}, got {type(tensor).__name__}")
    if not isinstance(num_groups, int):
        try:
            operator.index(num_groups)
        except TypeError:
            raise TypeError(
                f"num_groups must be an integer, got {type(num_groups).__name__} {num_groups!r}"
            ) from None
    # also what stands for one number, but no array of several
    if not isinstance(eps, int | float) and (
        not hasattr(eps, "__float__") or getattr(eps, "ndim", None)
    ):
        raise TypeError(f"eps must be a number, got {type(eps).__name__}")
    if not isinstance(backend, str):
        raise TypeError(f"backend must be a name, got {type(backend).__name__}")
    check_activation(activation)


def check_arguments(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    activation: str | None,
    residual: Tensor | None,
) -> None:
    """Check the arguments of `group_norm`, or of an operator for it.

    Raises:
        ValueError: shapes, dtypes, devices or an activation that do not fit.
    """
    if traced():
        with untraced():
            check_arguments(input, num_groups, weight, bias, activation, residual)
        return
    if input.dim() < 2:
        raise ValueError(f"input must have shape (N, C, *), got {tuple(input.shape)}")
    channels, dtype, device = input.size(1), input.dtype, input.device
    if num_groups < 1 or channels < 1 or channels % num_groups:
        raise ValueError(
            f"the number of channels must be a positive multiple of num_groups, got {channels} "
            f"channels and {num_groups} groups (input {tuple(input.shape)})"
        )
    for name, parameter in (("weight", weight), ("bias", bias)):
        if parameter is None:
            continue
        if parameter.shape != (channels,):
            raise ValueError(
                f"{name} must have shape ({channels},) for input {tuple(input.shape)}, "
                f"got {tuple(parameter.shape)}"
            )
        if parameter.device != device:
            raise ValueError(
                f"{name} is on {parameter.device} but the input is on {device}; move one of them"
            )
        if parameter.dtype == dtype:
            continue
        half = dtype in (torch.float16, torch.bfloat16)
        if not (half and parameter.dtype == torch.float32):
            raise ValueError(
                f"{name} is {parameter.dtype} but the input is {dtype}; they must agree "
                "(float32 parameters also go with half input). Convert one of them"
            )
    check_activation(activation)
    if residual is not None and (
        residual.shape != input.shape
        or residual.dtype != input.dtype
        or residual.device != input.device
    ):
        raise ValueError(
            f"residual must be {input.dtype} of shape {tuple(input.shape)} on {input.device} as "
            f"the input, got {residual.dtype} of shape {tuple(residual.shape)} on {residual.device}"
        )


def check_out(
    out: Tensor,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
) -> None:
    """Check what `group_norm` is to write to.

    Raises:
        ValueError: it is no tensor like the input, or shares memory in a way that it may not.
        RuntimeError: grad mode is on, or a storage was freed.
    """
    named = {"input": input, "weight": weight, "bias": bias, "residual": residual, "out": out}
    given = {name: tensor for name, tensor in named.items() if tensor is not None}
    if torch.is_grad_enabled():
        raise RuntimeError(
            "group norm in place is for inference, because it keeps nothing for gradients, but "
            "grad mode is on. Call it under torch.no_grad() or torch.inference_mode(), or leave "
            "out `out` (layers: inplace=False)"
        )
    if (
        out.shape != input.shape
        or out.dtype != input.dtype
        or out.device != input.device
        or _strides(out) != _strides(input)
    ):
        expected, got = (
            f"{t.dtype} of shape {tuple(t.shape)} and strides {t.stride()} on {t.device}"
            for t in (input, out)
        )
        raise ValueError(f"out must be {expected} as the input, got {got}")
    if torch.compiler.is_compiling() or traced() or not all_plain(*given.values()):
        return  # the output is computed elsewhere and copied
    check_memory(out)
    begin, end = extent(given.pop("out"))
    for name, tensor in given.items():
        first, last = extent(tensor)
        same = (
            first == begin and name in ("input", "residual") and _strides(tensor) == _strides(out)
        )
        if first < end and begin < last and not same:
            raise ValueError(
                f"out overlaps the memory of {name} without being it; give the input itself, or "
                "memory of its own"
            )


def _strides(tensor: Tensor) -> list[int]:
    """Those that say where anything lies: of axes longer than 1."""
    pairs = zip(tensor.shape, tensor.stride(), strict=True)
    return [stride for size, stride in pairs if size != 1]


def check_backward_arguments(
    grad_output: Tensor,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor,
    residual: Tensor | None,
    of_group: int,
) -> None:
    """Check what a backward pass gets; hooks on saved tensors may have changed it.

    Args:
        of_group: how many statistics of each group there are.

    Raises:
        ValueError: shapes or dtypes that do not fit.
    """
    shape, dtype = input.shape, input.dtype
    if (
        grad_output.shape != shape
        or grad_output.dtype != dtype
        or statistics.dtype != statistics_dtype(dtype)
        or statistics.numel() != of_group * input.size(0) * num_groups
        or (weight is not None and weight.numel() != input.size(1))
        or (bias is not None and bias.numel() != input.size(1))
        or (residual is not None and (residual.shape != shape or residual.dtype != dtype))
    ):
        got = ", ".join(
            f"{name} {tensor.dtype} {tuple(tensor.shape)}"
            for name, tensor in (
                ("gradient", grad_output), ("input", input), ("weight", weight), ("bias", bias),
                ("statistics", statistics), ("residual", residual),
            )
            if tensor is not None
        )  # fmt: skip
        raise ValueError(
            f"the tensors of the backward pass do not fit together: {got}, {num_groups} groups. "
            "Were they changed by a hook on saved tensors?"
        )
