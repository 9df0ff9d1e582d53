"""What a call costs beside its arithmetic: group norm with ReLU of a tensor of 64 numbers.

    python benchmarks/call_overhead.py [--out FILE.json]

Median microseconds, ours and PyTorch's, in turns: "warm" many calls in a row, "cold" one call after
10 MB went through the caches, as between the layers of a network. One thread.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from groupnorm.environment import environment
from groupnorm.ops.group_norm import group_norm

ROUNDS, WARM_CALLS = 101, 50


def variants() -> dict[str, Callable[[], object]]:
    """Name and call of everything that is timed."""
    x, weight, bias, grad = (torch.randn(s) for s in ((2, 8, 2, 2), 8, 8, (2, 8, 2, 2)))
    leaves = [t.requires_grad_() for t in (x, weight, bias)]

    def ours() -> torch.Tensor:
        return group_norm(x, 2, weight, bias, activation="relu", backend="native")

    def eager() -> torch.Tensor:
        return F.relu(F.group_norm(x, 2, weight, bias))

    def without_grad(call: Callable[[], object]) -> Callable[[], object]:
        def run() -> object:
            with torch.no_grad():
                return call()

        return run

    found: dict[str, Callable[[], object]] = {}
    for name, call in (("groupnorm", ours), ("eager", eager)):
        found[f"{name}, forward without gradients"] = without_grad(call)
        found[f"{name}, forward"] = call
        found[f"{name}, forward+backward"] = lambda call=call: torch.autograd.grad(  # type: ignore[misc]
            call(), leaves, grad
        )
    return found


def main() -> None:
    """Measure, print, write the record."""
    parser = argparse.ArgumentParser(description="What a call costs beside its arithmetic.")
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    calls = variants()
    source = torch.randn(1_300_000)
    target = torch.empty_like(source)
    seconds: dict[str, dict[str, list[float]]] = {n: {"warm": [], "cold": []} for n in calls}
    order = list(calls)
    for _ in range(ROUNDS):
        random.shuffle(order)
        for name in order:
            call = calls[name]
            call()
            began = time.perf_counter()
            for _ in range(WARM_CALLS):
                call()
            seconds[name]["warm"].append((time.perf_counter() - began) / WARM_CALLS)
            target.copy_(source)
            target.add_(source)
            began = time.perf_counter()
            call()
            seconds[name]["cold"].append(time.perf_counter() - began)
    rows = [
        {"call": name, **{state: 1e6 * statistics.median(v) for state, v in states.items()}}
        for name, states in seconds.items()
    ]
    for row in rows:
        print(f"{row['call']:45} warm {row['warm']:6.1f}  cold {row['cold']:6.1f} microseconds")
    record = {
        "command": "python benchmarks/call_overhead.py",
        "environment": environment(),
        "rows": rows,
    }
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
