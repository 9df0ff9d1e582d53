"""The Triton kernels for CUDA as a backend. Loads Triton when it is first used."""

from __future__ import annotations

import importlib.util
import os
from functools import cache

from torch import Tensor

from groupnorm.ops.group_norm import autograd as kernel_autograd

why_off = (
    ""
    if importlib.util.find_spec("triton")
    else "Triton is not installed; on Linux it comes with PyTorch's CUDA wheels"
)
# Triton's interpreter runs the kernels on the CPU, to try them without a GPU; Triton reads this
# variable when it is imported.
interpreted = os.environ.get("TRITON_INTERPRET", "0") in ("1", "true", "on", "yes")


def forward(*arguments: object) -> Tensor:
    """y = activation(GN(x) * weight + bias + residual); see `autograd.run`."""
    return kernel_autograd.run(_kernels(), *arguments)  # type: ignore[arg-type]


@cache
def _kernels() -> kernel_autograd.Kernels:
    from groupnorm.ops.group_norm.triton import launch as triton_launch
    from groupnorm.ops.group_norm.triton import triton_operator

    return kernel_autograd.Kernels(
        triton_launch.launch_forward, triton_launch.launch_backward, triton_operator.operator
    )
