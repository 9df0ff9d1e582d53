"""group_norm(): checks its arguments and hands them to a backend."""

from __future__ import annotations

import torch
from torch import Tensor

from groupnorm.ops.activations import check_activation
from groupnorm.ops.backends import choose


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """y = activation(GN(input) * weight + bias + residual).

    Group normalization (Wu & He 2018, arXiv 1803.08494, equation 7): the C channels are split into
    `num_groups` groups of neighbours, and each group of each sample is normalized over its
    channels and all positions, with the biased variance and eps inside the root.

    Args:
        input: (N, C, *) with any number of further axes, any floating dtype.
        num_groups: G, a divisor of C.
        weight: gamma of shape (C,), or None. float32 parameters go with half input.
        bias: beta of shape (C,), or None.
        eps: added to the variance.
        activation: None, "relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "mish", "hardswish".
        residual: tensor of the input's shape and dtype, added before the activation.
        backend: "auto", or the name of one that must run; `groupnorm.explain` tells which.

    Returns:
        Tensor of the input's shape, dtype and memory format.

    Raises:
        ValueError: shapes, dtypes, activation or backend that do not fit.
    """
    _check(input, num_groups, weight, bias, activation, residual)
    run = choose(input, backend).forward
    return run(input, num_groups, weight, bias, eps, activation, residual)


def _check(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    activation: str | None,
    residual: Tensor | None,
) -> None:
    if input.dim() < 2:
        raise ValueError(f"input must have shape (N, C, *), got {tuple(input.shape)}")
    channels = input.shape[1]
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
        if parameter.device != input.device:
            raise ValueError(
                f"{name} is on {parameter.device} but the input is on {input.device}; "
                "move one of them"
            )
        if parameter.dtype == input.dtype:
            continue
        half = input.dtype in (torch.float16, torch.bfloat16)
        if not (half and parameter.dtype == torch.float32):
            raise ValueError(
                f"{name} is {parameter.dtype} but the input is {input.dtype}; they must agree "
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
