"""The C++ kernels for the CPU as a backend."""

from __future__ import annotations

from functools import partial

from groupnorm.ops.group_norm.autograd import Kernels, run
from groupnorm.ops.group_norm.native.launch import launch_backward, launch_forward
from groupnorm.ops.group_norm.operators import register

operator = register("group_norm", launch_forward, launch_backward, device_types="cpu")
forward = partial(run, Kernels(launch_forward, launch_backward, operator))
