"""Error of PyTorch's group norm and ours on input with an offset, by layout.

    python benchmarks/offset_accuracy.py [--out FILE.json]

Largest absolute error of the output against float64 of the same input (2, 64, 56, 56), 32 groups,
unit standard deviation, float32, on the CPU.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from groupnorm import group_norm
from groupnorm.environment import environment

MEANS = (0, 10, 100, 1_000, 10_000)


def error(output: Tensor, true: Tensor) -> float:
    """Largest absolute difference."""
    return float((output.double() - true).abs().max())


def main() -> None:
    """Measure, print, write the record."""
    parser = argparse.ArgumentParser(description="Error on input with an offset.")
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    torch.manual_seed(0)
    rows = []
    for mean in MEANS:
        x = torch.randn(2, 64, 56, 56) + mean
        nhwc = x.contiguous(memory_format=torch.channels_last)
        true = F.group_norm(x.double(), 32)
        rows.append(
            {
                "mean": mean,
                "torch_contiguous": error(F.group_norm(x, 32), true),
                "torch_channels_last": error(F.group_norm(nhwc, 32), true),
                "groupnorm_contiguous": error(group_norm(x, 32), true),
                "groupnorm_channels_last": error(group_norm(nhwc, 32), true),
            }
        )
        print(*(f"{key} {value:.1e}" for key, value in rows[-1].items()))
    record = {
        "command": "python benchmarks/offset_accuracy.py",
        "environment": environment(),
        "rows": rows,
    }
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
