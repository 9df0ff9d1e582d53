"""Other projects' group norms for CUDA, where they are installed: Liger-Kernel and FlagGems."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

# (input, num_groups, weight, bias, eps) -> output, without the activation.
Peer = Callable[[Tensor, int, Tensor, Tensor, float], Tensor]


@cache
def peers() -> dict[str, Peer]:
    """Name and group norm of each that can be imported here."""
    found: dict[str, Peer] = {}
    for name, load in (("liger", _liger), ("flaggems", _flaggems)):
        try:
            found[name] = load()
        except ImportError:
            continue
    return found


def _liger() -> Peer:
    from liger_kernel.ops.group_norm import LigerGroupNormFunction  # type: ignore

    def liger(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        y: Tensor = LigerGroupNormFunction.apply(x, weight, bias, x.shape[1], groups, eps)
        return y

    return liger


def _flaggems() -> Peer:
    from flag_gems.ops import groupnorm as kernels  # type: ignore

    class Function(torch.autograd.Function):
        """Its two kernels, called as its operators for PyTorch call them."""

        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Tensor:
            x, groups, weight, bias, eps = inputs
            n, c = x.shape[:2]
            ctx.sizes = (n, c, x.numel() // (n * c), groups)
            y: Tensor
            y, mean, rstd = kernels.group_norm(x, weight, bias, *ctx.sizes, eps)
            ctx.save_for_backward(x, mean, rstd, weight)
            return y

        @staticmethod
        def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
            needs = [ctx.needs_input_grad[i] for i in (0, 2, 3)]
            dx, dweight, dbias = kernels.group_norm_backward(
                grad_outputs[0], *ctx.saved_tensors, *ctx.sizes, needs
            )
            return dx, None, dweight, dbias, None

    def flaggems(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        y: Tensor = Function.apply(x, groups, weight, bias, eps)
        return y

    return flaggems
