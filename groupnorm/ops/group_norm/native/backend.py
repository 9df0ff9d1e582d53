"""The C++ kernels for the CPU as a backend."""

from __future__ import annotations

from functools import partial

from groupnorm.ops.group_norm import autograd as kernel_autograd
from groupnorm.ops.group_norm.native import launch as native_launch
from groupnorm.ops.group_norm.native import native_operator

forward = partial(
    kernel_autograd.run,
    kernel_autograd.Kernels(
        native_launch.launch_forward, native_launch.launch_backward, native_operator.operator
    ),
)
