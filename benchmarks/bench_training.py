"""What the kernels and kept blocks give a training on the CPU: milliseconds of a step.

    python benchmarks/bench_training.py [--rounds 5] [--out FILE.json]

A step is forward, backward and SGD, of ResNet-8 with 8 groups (64 images of 32x32) and of
torchvision's ResNet-18 with 32 (16 images of 64x64), in both layouts. The norms are
`torch.nn.GroupNorm` (`torch`), ours on PyTorch's operator (`aten`, which on channels_last shifts
first, to be right) and ours on the C++ kernels (`native`); glibc is as it is (`default`) or was
told to keep large blocks (`kept`). Every combination runs in a process of its own, since blocks
that are kept cannot be given up; in each round all take turns. Times are CPU time on one thread, in
which other work counts less.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet18

from groupnorm import GroupNorm, keep_large_blocks
from groupnorm.environment import environment
from groupnorm.files import write_atomic
from groupnorm.models import build_model

WARM_UP, STEPS = 4, 14
# Images, their side, and the norms that are compared.
NETWORKS = {
    "ResNet-8": (64, 32, ("torch", "aten", "native")),
    "ResNet-18": (16, 64, ("torch", "native")),
}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def network(name: str, way: str, layout: str) -> nn.Module:
    """A network whose norms run the given way: "torch", "aten" or "native"."""
    torch.manual_seed(0)
    if name == "ResNet-8":
        model = build_model("resnet8", norm="gn:groups=8", num_classes=10, in_channels=3)
    else:
        model = resnet18(norm_layer=partial(GroupNorm, 32), num_classes=10)
    for parent in list(model.modules()):
        for child_name, child in list(parent.named_children()):
            if not isinstance(child, GroupNorm):
                continue
            if way == "torch":
                setattr(parent, child_name, nn.GroupNorm(child.num_groups, child.num_channels))
            else:
                child.backend = way
    return model.to(memory_format=LAYOUTS[layout])


def measure(name: str, way: str, layout: str, memory: str) -> dict[str, Any]:
    """The median of the steps in this process, page faults of one, and the peak of memory."""
    torch.set_num_threads(1)
    if memory == "kept" and not keep_large_blocks():
        raise SystemExit("glibc keeps no blocks here, or this is another C library")
    model = network(name, way, layout)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9)
    images, side, _ = NETWORKS[name]
    x = torch.randn(images, 3, side, side).contiguous(memory_format=LAYOUTS[layout])
    labels = torch.randint(0, 10, (images,))
    seconds = []
    for step in range(WARM_UP + STEPS):
        if step == WARM_UP:
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        began = time.process_time()
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        seconds.append(time.process_time() - began)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "milliseconds": 1000 * statistics.median(seconds[WARM_UP:]),
        "faults": (usage.ru_minflt - faults) / STEPS,
        "peak_megabytes": usage.ru_maxrss / 1024,
    }


def main() -> None:
    """Measure, print, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    cells = [(name, *cell) for name, (_, _, ways) in NETWORKS.items()
             for cell in product(ways, LAYOUTS, ("default", "kept"))]  # fmt: skip
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        runs = list(pool.map(measure, *zip(*cells * arguments.rounds, strict=True)))
    rows: list[dict[str, Any]] = []
    for index, (name, way, layout, memory) in enumerate(cells):
        same = runs[index :: len(cells)]
        found = {key: statistics.median(run[key] for run in same) for key in same[0]}
        times = [run["milliseconds"] for run in same]
        rows.append({"network": name, "images": NETWORKS[name][0], "way": way, "layout": layout,
                     "memory": memory, **found, "low": min(times), "high": max(times)})  # fmt: skip
        print(f"{name:10} {way:7} {layout:14} {memory:8} {found['milliseconds']:6.1f} ms "
              f"({min(times):.1f} to {max(times):.1f}), {found['faults']:,.0f} faults")  # fmt: skip
    torch.set_num_threads(1)  # what the environment tells
    record = {
        "command": f"python benchmarks/bench_training.py --rounds {arguments.rounds}",
        "environment": environment(),
        "rows": rows,
    }
    if arguments.out:
        write_atomic(arguments.out, json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
