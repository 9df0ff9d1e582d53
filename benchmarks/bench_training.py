"""What the kernels give a training: images/s of a small ResNet by backend and layout.

    python benchmarks/bench_training.py [--rounds 9] [--out FILE.json]

ResNet-8 with group norm (8 groups) on 64 images of 32x32, one thread; forward,
backward and SGD step. The same network runs on PyTorch's operator (`aten`, which on
channels_last shifts first, to be right), on `torch.nn.GroupNorm` and on the C++ kernels, in turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from groupnorm import GroupNorm
from groupnorm.environment import environment
from groupnorm.memory import keep_large_blocks
from groupnorm.models import build_model

NORM, IMAGES, STEPS = "gn:groups=8", 64, 5
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def network(way: str, layout: str) -> nn.Module:
    """ResNet-8 whose norms run the given way: "torch", "aten" or "native"."""
    torch.manual_seed(0)
    model = build_model("resnet8", norm=NORM, num_classes=10, in_channels=3)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if not isinstance(child, GroupNorm):
                continue
            if way == "torch":
                setattr(parent, name, nn.GroupNorm(child.num_groups, child.num_channels))
            else:
                child.backend = way
    return model.to(memory_format=LAYOUTS[layout])


def main() -> None:
    """Measure, print, write the record."""
    parser = argparse.ArgumentParser(description="What the kernels give a training.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_large_blocks()
    variants = {}
    for layout, memory_format in LAYOUTS.items():
        x = torch.randn(IMAGES, 3, 32, 32).contiguous(memory_format=memory_format)
        for way in ("torch", "aten", "native"):
            model = network(way, layout)
            variants[way, layout] = (model, torch.optim.SGD(model.parameters(), 0.01, 0.9), x)
    labels = torch.randint(0, 10, (IMAGES,))
    speeds: dict[tuple[str, str], list[float]] = {key: [] for key in variants}
    for _ in range(arguments.rounds + 1):
        for key, (model, optimizer, x) in variants.items():
            began = time.perf_counter()
            for _ in range(STEPS):
                optimizer.zero_grad()
                F.cross_entropy(model(x), labels).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            speeds[key].append(STEPS * IMAGES / (time.perf_counter() - began))
    rows = []
    for (way, layout), values in speeds.items():
        low, middle, high = statistics.quantiles(values[1:], n=4)  # the first warms up
        rows.append({"way": way, "layout": layout, "images_per_second": middle, "low": low,
                     "high": high})  # fmt: skip
        print(f"{layout:14} {way:7} {middle:6.0f} images/s ({low:.0f} to {high:.0f})")
    record = {
        "command": f"python benchmarks/bench_training.py --rounds {arguments.rounds}",
        "environment": environment(),
        "rows": rows,
    }
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
