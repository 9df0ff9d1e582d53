"""The C++ kernels for the CPU as a backend."""

from __future__ import annotations

from functools import partial

from groupnorm.ops import kernel_autograd, native_launch, native_operator

forward = partial(
    kernel_autograd.run,
    kernel_autograd.Kernels(
        native_launch.launch_forward, native_launch.launch_backward, native_operator.operator
    ),
)
