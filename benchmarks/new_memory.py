"""What new memory costs a pass over a large tensor: page faults, huge pages, kept blocks.

    python benchmarks/new_memory.py [--out FILE.json]

Median milliseconds of copying a float32 tensor into kept memory, into new memory, into new memory
with huge pages (as the kernels ask for), and into new memory with glibc keeping freed blocks; and
of group norm with ReLU, ours and PyTorch's, before and after glibc was told to keep blocks. One
thread; what keeps blocks is measured in the end, for it cannot be undone.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from groupnorm.environment import environment
from groupnorm.memory import keep_large_blocks
from groupnorm.ops.group_norm import group_norm

SHAPES = ((8, 64, 56, 56), (2, 320, 64, 64), (128, 64, 38, 38), (2, 256, 200, 272))
MADV_HUGEPAGE, PAGE, ROUNDS = 14, 4096, 21


def huge(y: Tensor) -> Tensor:
    """Ask for huge pages under `y`."""
    begin = -(-y.data_ptr() // PAGE) * PAGE
    end = (y.data_ptr() + y.numel() * y.element_size()) // PAGE * PAGE
    ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), MADV_HUGEPAGE)
    return y


def ours(x: Tensor) -> Tensor:
    """The kernels, ReLU in the same pass."""
    return group_norm(x, 4, activation="relu", backend="native")


def eager(x: Tensor) -> Tensor:
    """PyTorch's operator and its ReLU."""
    return F.relu(F.group_norm(x, 4))


def median(call: Callable[[], object]) -> float:
    """Milliseconds of one call."""
    call()
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return 1000 * statistics.median(seconds)


def main() -> None:
    """Measure, print, write the record."""
    parser = argparse.ArgumentParser(description="What new memory costs a pass.")
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    inputs = [torch.randn(shape) for shape in SHAPES]
    rows: list[dict[str, object]] = []
    for x in inputs:
        kept = torch.empty_like(x)
        rows.append(
            {
                "megabytes": x.numel() * 4 / 1e6,
                "kept": median(lambda x=x, kept=kept: kept.copy_(x)),  # type: ignore[misc]
                "new": median(lambda x=x: torch.empty_like(x).copy_(x)),  # type: ignore[misc]
                "new_huge_pages": median(lambda x=x: huge(torch.empty_like(x)).copy_(x)),  # type: ignore[misc]
                "group_norm": median(lambda x=x: ours(x)),  # type: ignore[misc]
                "eager": median(lambda x=x: eager(x)),  # type: ignore[misc]
            }
        )
    keep_large_blocks()
    for x, row in zip(inputs, rows, strict=True):
        row["new_kept_blocks"] = median(lambda x=x: torch.empty_like(x).copy_(x))  # type: ignore[misc]
        row["group_norm_kept_blocks"] = median(lambda x=x: ours(x))  # type: ignore[misc]
        row["eager_kept_blocks"] = median(lambda x=x: eager(x))  # type: ignore[misc]
        print(*(f"{key} {value:.1f}" for key, value in row.items()))
    record = {
        "command": "python benchmarks/new_memory.py",
        "environment": environment(),
        "rows": rows,
    }
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
