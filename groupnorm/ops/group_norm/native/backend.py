"""The C++ kernels for the CPU as a backend."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from groupnorm.ops.group_norm.autograd import Kernels, run, with_gradients
from groupnorm.ops.group_norm.memory import unobserved
from groupnorm.ops.group_norm.native.launch import (
    STATISTICS,
    finish,
    launch_backward,
    launch_forward,
    quick_backward,
    quick_forward,
)
from groupnorm.ops.group_norm.operators import register

operator = register(
    "group_norm", launch_forward, launch_backward, of_group=STATISTICS, device_types="cpu"
)
_KERNELS = Kernels(launch_forward, launch_backward, operator, quick_backward)
forward = partial(run, _KERNELS)


def quick(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str | None,
    residual: Tensor | None,
    out: Tensor | None,
) -> Tensor | None:
    """`group_norm` outside torch.compile where all fits as it is and nothing looks on; else None.

    What is None has had no effect, and nothing is said about what does not fit: the usual way finds
    out.
    """
    if not unobserved():
        return None
    differentiable = torch.is_grad_enabled() and (
        input.requires_grad
        or (weight is not None and weight.requires_grad)
        or (bias is not None and bias.requires_grad)
        or (residual is not None and residual.requires_grad)
    )
    if out is not None and (
        torch.is_grad_enabled() or (out.is_inference() and not torch.is_inference_mode_enabled())
    ):
        return None
    found = quick_forward(
        input, num_groups, weight, bias, eps, activation, residual, differentiable, out
    )
    if found is None:
        return None
    if differentiable:
        call = (_KERNELS, num_groups, eps, activation)
        found = with_gradients(input, weight, bias, residual, (*found, call))
    elif out is not None:
        increment_version(out)
        if found is not out:
            finish(out, found[1], input, num_groups, weight, bias, eps, activation, residual)
        return out
    y: Tensor = found
    return y
