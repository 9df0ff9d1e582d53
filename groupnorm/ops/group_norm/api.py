"""group_norm(): checks its arguments and hands them to a backend."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from groupnorm.ops.group_norm import expanded_weights
from groupnorm.ops.group_norm.arguments import check_arguments, check_out, check_types
from groupnorm.ops.group_norm.backends import choose
from groupnorm.ops.group_norm.native.backend import quick
from groupnorm.ops.group_norm.native.launch import why_off


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
    out: Tensor | None = None,
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
        out: tensor that y is written to, for inference: the input itself, or one of its shape,
            dtype, device and strides that shares no memory with it, nor with the residual unless it
            is the residual itself.
        backend: "auto", or the name of one that must run; `groupnorm.explain` tells which.

    Returns:
        Tensor of the input's shape, dtype and memory format; `out` if that was given.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: shapes, dtypes, activation, backend or `out` that do not fit.
        RuntimeError: a tensor has no memory; `out` while grad mode is on.
    """
    if has_torch_function_variadic(input, weight, bias, residual, out):
        expanded_weights.register(group_norm)
        extra = {} if out is None else {"out": out}
        overridden: Tensor = handle_torch_function(
            group_norm, (input, weight, bias, residual, out), input, num_groups, weight=weight,
            bias=bias, eps=eps, activation=activation, residual=residual, backend=backend, **extra,
        )  # fmt: skip
        return overridden
    if backend in _QUICK and not torch.compiler.is_compiling():
        try:
            y = quick(input, num_groups, weight, bias, eps, activation, residual, out)
        except (AttributeError, TypeError):
            check_types(input, num_groups, weight, bias, eps, activation, residual, out, backend)
            raise
        if y is not None:
            return y
    check_types(input, num_groups, weight, bias, eps, activation, residual, out, backend)
    check_arguments(input, num_groups, weight, bias, activation, residual)
    run = choose(input, backend).forward
    if out is None:
        return run(input, num_groups, weight, bias, eps, activation, residual)
    check_out(out, input, weight, bias, residual)
    return out.copy_(run(input, num_groups, weight, bias, eps, activation, residual))


_QUICK = () if why_off else ("auto", "native")
