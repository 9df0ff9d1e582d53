"""Compile the Triton kernels for GPUs that need not be there; a line of JSON for each kernel.

TRITON_INTERPRET=0 python -m tests.ops.group_norm.triton.compile_kernels 90
"""

import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from groupnorm.ops.group_norm.triton.kernels import backward as backward_kernels
from groupnorm.ops.group_norm.triton.kernels import forward as forward_kernels
from groupnorm.ops.group_norm.triton.kernels.tiles import SIZES
from groupnorm.ops.group_norm.triton.plan import LIMITS, tiling

TENSORS = ("p_x", "p_r", "p_y", "p_dy", "p_dx", "p_dr")
FLOATS = ("p_weight", "p_bias", "p_statistics", "p_partials", "p_sums")
# (channels, groups, positions): one that stays on chip and one that is split, in both layouts.
SHAPES = {"resident": (256, 32, 256), "split": (320, 32, 4096)}
KERNELS = {
    "resident": (forward_kernels.resident_forward, backward_kernels.resident_backward),
    "split": (
        forward_kernels.looped_forward,
        forward_kernels.partial_statistics,
        forward_kernels.apply_forward,
        backward_kernels.looped_backward,
        backward_kernels.partial_sums,
        backward_kernels.apply_backward,
    ),
}


def compiled(kernel, channels_last, path, capability, constants_of=()):
    """Registers, local memory and the widths of loads and stores of a bfloat16 kernel.

    `constants_of`: names of arguments that are constants, 1, as torch.compile may make them.
    """
    channels, groups, positions = SHAPES[path]
    backward = kernel.fn.__module__.endswith("backward") or "backward" in kernel.fn.__name__
    limit = LIMITS.resident_backward if backward else LIMITS.resident_forward
    cut = tiling(channels, groups, positions, 2, channels_last, limit, LIMITS)
    assert cut.resident == (path == "resident")
    known = {
        "CHANNELS_LAST": channels_last, "MULTIPLE": 8, "ACTIVATION": 3,
        "HAS_R": True, "HAS_W": True, "HAS_B": True, "HAS_STATISTICS": True, "NEEDS_R": True,
        "BLOCK_C": cut.block_c, "BLOCK_S": cut.block_s, "BLOCK_G": cut.block_g,
        "BLOCK_P": LIMITS.partials // (cut.block_c if backward else cut.block_g),
    }  # fmt: skip
    known |= dict.fromkeys(constants_of, 1)
    names = list(inspect.signature(kernel.fn).parameters)
    signature, attributes, constants = {}, {}, {}
    for index, name in enumerate(names):
        if name in known:
            signature[name] = "constexpr"
            constants[index,] = known[name]
            continue
        if name in (*TENSORS, *FLOATS):
            attributes[index,] = [["tt.divisibility", 16]]
        types = {**dict.fromkeys(TENSORS, "*bf16"), **dict.fromkeys(FLOATS, "*fp32")}
        types["eps"] = "fp32"
        signature[name] = types.get(name, "i32")
    result = triton.compile(
        ASTSource(kernel, signature, constants, attributes),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": cut.warps},
    )
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(result.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [tool, "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    return {
        "kernel": kernel.fn.__name__,
        "channels_last": channels_last,
        "registers": int(re.search(r"REG:(\d+)", usage)[1]),
        "local_bytes": int(re.search(r"STACK:(\d+)", usage)[1]),
        "wide": len(re.findall(r"(?:ld|st)\.global\S*\.v4", result.asm["ptx"])),
        "narrow": len(re.findall(r"(?:ld|st)\.global\S*\.b16", result.asm["ptx"])),
    }


if __name__ == "__main__":
    assert os.environ.get("TRITON_INTERPRET") == "0"
    assert torch.__version__
    for path, kernels in KERNELS.items():
        for kernel in kernels:
            for channels_last in (False, True):
                found = compiled(kernel, channels_last, path, int(sys.argv[1]))
                sys.stdout.write(json.dumps(found) + "\n")
            sizes = set(inspect.signature(kernel.fn).parameters) & {*SIZES}
            compiled(kernel, False, path, int(sys.argv[1]), sizes)
