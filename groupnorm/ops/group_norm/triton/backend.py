"""The Triton kernels for CUDA as a backend. Loads Triton."""

from __future__ import annotations

from functools import partial

from groupnorm.ops.group_norm.autograd import Kernels, run
from groupnorm.ops.group_norm.operators import register
from groupnorm.ops.group_norm.triton import interpreted
from groupnorm.ops.group_norm.triton.launch import (
    STATISTICS,
    launch_backward,
    launch_forward,
    traced,
)

# The interpreter's kernels are plain functions of real tensors: torch.compile does not see them.
operator = register(
    "triton_group_norm", launch_forward, launch_backward, of_group=STATISTICS, launch=traced,
    always_opaque=interpreted,
)  # fmt: skip
forward = partial(run, Kernels(launch_forward, launch_backward, operator))
