"""The C++ function with next to nothing of Python around it, forward into a kept tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from workloads import Inputs, Workload

from groupnorm.ops.group_norm.activations import NUMBERS
from groupnorm.ops.group_norm.native import launch


def kernel_alone(work: Workload, data: Inputs, direction: str, out: Tensor) -> Callable[[], Any]:
    """One call of the C function, which writes y into `out`, or makes dx, dweight and dbias.

    The forward pass leaves no statistics; they are there before the backward pass.
    """
    kernels = launch._kernels
    assert kernels is not None
    x, weight, bias, dy = data
    numbers = {
        "num_groups": work.groups, "images": 0, "activation": NUMBERS[work.activation],
        "threads": torch.get_num_threads(), "eps": work.eps,
    }  # fmt: skip
    if direction == "forward":
        return lambda: kernels.forward(x, weight, bias, None, out, **numbers, with_statistics=False)
    statistics = kernels.forward(x, weight, bias, None, None, **numbers, with_statistics=True)[1]
    return lambda: kernels.backward(
        x, weight, bias, None, dy, statistics, **numbers, needs_residual=False
    )
