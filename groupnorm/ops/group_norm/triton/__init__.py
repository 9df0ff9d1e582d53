"""The Triton kernels for CUDA: whether they can run, and how. Loads no Triton."""

import importlib.util
import os

why_off = (
    ""
    if importlib.util.find_spec("triton")
    else "Triton is not installed; on Linux it comes with PyTorch's CUDA wheels"
)
# Triton's interpreter runs the kernels on the CPU, to try them without a GPU; Triton reads this
# variable when it is imported.
interpreted = os.environ.get("TRITON_INTERPRET", "0") in ("1", "true", "on", "yes")
