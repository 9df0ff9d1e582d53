"""Error of PyTorch's group norm and ours on input with an offset, by layout.

    python benchmarks/offset_accuracy.py [--out FOLDER]

Against float64 of the same input (2, 64, 56, 56), 32 groups, unit standard deviation, float32, on
the CPU: the largest absolute error of the output, and, with ReLU, the largest error of the gradient
of gamma over its largest value.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from groupnorm import group_norm
from groupnorm.environment import environment

MEANS = (0, 10, 100, 1_000, 10_000)
GROUPS = 32
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def pytorchs(x: Tensor, weight: Tensor | None = None, relu: bool = False) -> Tensor:
    """PyTorch's operator, and its ReLU."""
    y = F.group_norm(x, GROUPS, weight)
    return F.relu(y) if relu else y


def ours(x: Tensor, weight: Tensor | None = None, relu: bool = False) -> Tensor:
    """Ours with ReLU in the same pass."""
    return group_norm(x, GROUPS, weight, activation="relu" if relu else None)


def errors(function: Callable[..., Tensor], x: Tensor, dy: Tensor) -> dict[str, float]:
    """Of the output, and of the gradient of gamma."""
    exact = x.double()
    true = pytorchs(exact)
    found = {"output": float((function(x).double() - true).abs().max())}
    gradients: list[Tensor] = []
    for run, input in ((function, x), (pytorchs, exact)):
        weight = torch.ones(x.size(1), dtype=input.dtype, requires_grad=True)
        gradients += torch.autograd.grad(run(input, weight, True), weight, dy.to(input.dtype))
    dweight, exact_dweight = gradients
    worst = (dweight - exact_dweight).abs().max() / exact_dweight.abs().max()
    return found | {"dweight": float(worst)}


def main() -> None:
    """Measure, print, write the record."""
    parser = argparse.ArgumentParser(description="Error on input with an offset.")
    parser.add_argument("--out", type=Path, metavar="FOLDER")
    out = parser.parse_args().out
    torch.manual_seed(0)
    rows = []
    for mean in MEANS:
        x, dy = torch.randn(2, 64, 56, 56) + mean, torch.randn(2, 64, 56, 56)
        for layout in LAYOUTS:
            laid_out = x.contiguous(memory_format=LAYOUTS[layout])
            for name, function in (("torch", pytorchs), ("groupnorm", ours)):
                found = errors(function, laid_out, dy)
                rows.append({"mean": mean, "layout": layout, "name": name} | found)
                shown = ", ".join(f"{key} {value:.1e}" for key, value in found.items())
                print(f"mean {mean:,}, {layout}, {name}: {shown}")
    record = {
        "command": "python benchmarks/offset_accuracy.py",
        "environment": environment(),
        "rows": rows,
    }
    if out:
        out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(record, indent=1) + "\n"
        (out / "accuracy.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
