"""What torch.compile sees of the Triton operators on a GPU that need not be there.

TRITON_INTERPRET=0 python -m tests.ops.group_norm.triton.trace_operator

A line of JSON for each launch in the graph of one forward and backward pass: kernel, grid, and the
names of the tensors that the kernel is found to write.
"""

import contextlib
import json
import os
import sys
from types import SimpleNamespace

import torch
import triton
from torch._functorch.aot_autograd import aot_function
from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table
from torch._subclasses.fake_tensor import FakeTensorMode
from triton.backends.compiler import GPUTarget

from groupnorm.ops.group_norm.triton import launch
from groupnorm.ops.group_norm.triton.backend import operator

POSITIONS = {"resident": 8, "split": 64}


def look(graph, inputs):
    """Print the launches in a graph."""
    written = {}
    for node in graph.graph.nodes:
        if node.target is torch.ops.higher_order.triton_kernel_wrapper_functional:
            written[node] = []
        elif "getitem" in str(node.target) and node.args[0] in written:
            written[node.args[0]].append(node.args[1])
    for node, names in written.items():
        kernel = kernel_side_table.get_kernel(node.kwargs["kernel_idx"])
        found = {"kernel": kernel.fn.__name__, "writes": sorted(names)}
        sys.stdout.write(json.dumps(found | {"grid": node.kwargs["grid"][0]}) + "\n")
    return graph.forward


def both_ways(x, weight):
    """Forward and backward by the operators; autograd would need a GPU."""
    parameters = (4, weight, None, 1e-5)
    forward = torch.ops.groupnorm.triton_group_norm_2_statistics
    y, statistics = forward(x, *parameters, "silu", x)
    return torch.ops.groupnorm.triton_group_norm_backward(
        y, x, *parameters, statistics, "silu", x, True
    )


if __name__ == "__main__":
    assert os.environ.get("TRITON_INTERPRET") == "0"
    assert operator  # registered by this
    # No GPU has to answer what it is.
    target = GPUTarget("cuda", 90, 32)
    triton.runtime.driver.set_active(SimpleNamespace(get_current_target=lambda: target))
    launch.processors_of = lambda device: 132
    launch._on = lambda x: contextlib.nullcontext()
    with FakeTensorMode(allow_non_fake_inputs=True):
        for size in POSITIONS.values():
            x = torch.empty(2, 64, size, size, device="cuda")
            aot_function(both_ways, fw_compiler=look)(x, torch.empty(64, device="cuda"))
