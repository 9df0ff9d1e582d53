"""group_norm(): checks its arguments and hands them to a backend."""

from __future__ import annotations

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from groupnorm.ops.group_norm import expanded_weights
from groupnorm.ops.group_norm.arguments import check_arguments
from groupnorm.ops.group_norm.backends import choose


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
    if has_torch_function_variadic(input, weight, bias, residual):
        expanded_weights.register(group_norm)
        overridden: Tensor = handle_torch_function(
            group_norm, (input, weight, bias, residual), input, num_groups, weight=weight,
            bias=bias, eps=eps, activation=activation, residual=residual, backend=backend,
        )  # fmt: skip
        return overridden
    check_arguments(input, num_groups, weight, bias, activation, residual)
    run = choose(input, backend).forward
    return run(input, num_groups, weight, bias, eps, activation, residual)
