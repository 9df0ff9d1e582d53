"""Group norm and its activation on the CPU: ours against PyTorch eager and a copy, interleaved.

    python benchmarks/bench_ops.py [--threads 1] [--compile] [--only NAME] [--out FOLDER]

For every workload, layout, dtype and direction: first a correctness gate against float64 (PyTorch's
own errors are recorded, not gated), then all variants in turns in this one process. GB/s counts the
bytes that must move whatever the implementation (forward: read x, write y; backward: read x and dy,
write dx) over the median time. `copy` moves the bytes of the forward floor into a kept tensor.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from groupnorm.ops import group_norm, reference
from groupnorm.ops.activations import activate
from groupnorm.run import environment

ROUNDS = 15
SECONDS_PER_TURN = 0.004


class Workload(NamedTuple):
    """A norm as networks have it: input (N, C, *), groups, eps and the activation after it."""

    name: str
    shape: tuple[int, ...]
    groups: int
    eps: float
    activation: str | None


WORKLOADS = (
    Workload("diffusion U-Net, middle", (2, 1280, 8, 8), 32, 1e-5, "silu"),
    Workload("diffusion U-Net, transformer", (2, 640, 32, 32), 32, 1e-6, None),
    Workload("diffusion U-Net, level 0", (2, 320, 64, 64), 32, 1e-5, "silu"),
    Workload("detection tower, P2", (2, 256, 200, 272), 32, 1e-5, "relu"),
    Workload("detection tower, P5", (2, 256, 25, 42), 32, 1e-5, "relu"),
    Workload("detection tower, P7", (2, 256, 7, 11), 32, 1e-5, "relu"),
    Workload("mask head", (32, 256, 14, 14), 32, 1e-5, "relu"),
    Workload("ResNet-50, stage 1", (8, 64, 56, 56), 32, 1e-5, "relu"),
    Workload("ResNet-50, stage 3", (16, 256, 14, 14), 32, 1e-5, "relu"),
    Workload("CIFAR ResNet, stage 1", (32, 16, 32, 32), 8, 1e-5, "relu"),
    Workload("CIFAR ResNet, stage 3", (32, 64, 8, 8), 8, 1e-5, "relu"),
    Workload("federated ResNet-18", (20, 64, 32, 32), 2, 1e-5, "relu"),
    Workload("diffusion policy, 16 steps", (64, 512, 16), 8, 1e-5, "mish"),
    Workload("diffusion policy, 4 steps", (64, 2048, 4), 8, 1e-5, "mish"),
    Workload("diffusion policy, stem", (128, 64, 38, 38), 4, 1e-5, "relu"),
    Workload("SegResNet 3D", (1, 16, 48, 48, 48), 8, 1e-5, "relu"),
)
LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Largest error against float64, in units of the largest result (see tests/tolerances.py).
GATE = {torch.float32: 3e-6, torch.bfloat16: 1e-2}


class Inputs(NamedTuple):
    """One cell's tensors."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    grad: Tensor


def make_inputs(work: Workload, layout: str, dtype: torch.dtype) -> Inputs:
    """Random input in the layout, parameters near 1 and 0, a random gradient in the same layout."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    x, grad = draw(*work.shape), draw(*work.shape)
    channels = work.shape[1]
    weight, bias = 1 + 0.1 * draw(channels), 0.1 * draw(channels)
    if layout == "channels_last":
        memory_format = LAYOUTS[len(work.shape)]
        x, grad = (t.contiguous(memory_format=memory_format) for t in (x, grad))
    return Inputs(*(t.to(dtype) for t in (x, weight, bias, grad)))


def ours(work: Workload, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The native backend."""
    return group_norm(
        x, work.groups, weight, bias, work.eps, activation=work.activation, backend="native"
    )


def eager(work: Workload, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """PyTorch's operator and its activation."""
    return activate(F.group_norm(x, work.groups, weight, bias, work.eps), work.activation)


Norm = Callable[[Workload, Tensor, Tensor, Tensor], Tensor]


def turn(norm: Norm, work: Workload, data: Inputs, direction: str) -> Callable[[], Any]:
    """What is timed: one forward, or one forward and backward."""
    if direction == "forward":

        def forward() -> Tensor:
            with torch.no_grad():
                return norm(work, data.x, data.weight, data.bias)

        return forward
    leaves = [t.detach().requires_grad_() for t in (data.x, data.weight, data.bias)]

    def forward_backward() -> tuple[Tensor, ...]:
        return torch.autograd.grad(norm(work, *leaves), leaves, data.grad)

    return forward_backward


def errors(norm: Norm, work: Workload, data: Inputs) -> dict[str, float]:
    """Largest error of output and gradients against float64, over the largest true value."""
    results = [turn(norm, work, data, "forward")()]
    results += turn(norm, work, data, "forward+backward")()
    x, weight, bias, grad = (t.double() for t in data)
    y, mean, rstd = reference.forward(x, work.groups, weight, bias, work.eps, work.activation)
    dx, dweight, dbias, _ = reference.backward(
        grad, x, work.groups, weight, bias, mean, rstd, work.activation
    )
    true = {"y": y, "dx": dx, "dweight": dweight, "dbias": dbias}
    return {
        name: float((result.double() - t).abs().max() / t.abs().max())
        for (name, t), result in zip(true.items(), results, strict=True)
    }


def measure(variants: dict[str, Callable[[], Any]]) -> dict[str, dict[str, float]]:
    """Seconds of one call: median and quartiles over rounds in which all variants take turns."""
    calls = {}
    for name, call in variants.items():
        call()
        began = time.perf_counter()
        call()
        calls[name] = max(1, math.ceil(SECONDS_PER_TURN / (time.perf_counter() - began)))
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(ROUNDS):
        for name, call in variants.items():
            began = time.perf_counter()
            for _ in range(calls[name]):
                call()
            seconds[name].append((time.perf_counter() - began) / calls[name])
    result = {}
    for name, values in seconds.items():
        low, middle, high = statistics.quantiles(values, n=4)
        result[name] = {"median": middle, "low": low, "high": high}
    return result


def bench_cell(
    work: Workload, layout: str, dtype_name: str, direction: str, *, with_compile: bool
) -> dict[str, Any]:
    """One row of the record."""
    dtype = DTYPES[dtype_name]
    data = make_inputs(work, layout, dtype)
    found = errors(ours, work, data)
    if max(found.values()) > GATE[dtype]:
        raise AssertionError(f"{work.name}, {layout}, {dtype_name}: wrong by {found}")
    norms: dict[str, Norm] = {"groupnorm": ours, "eager": eager}
    if with_compile:
        torch.compiler.reset()  # else the cells share one limit of recompilations
        norms["compile"] = torch.compile(eager, dynamic=False)
    variants = {name: turn(norm, work, data, direction) for name, norm in norms.items()}
    kept = torch.empty_like(data.x)
    variants["copy"] = lambda: kept.copy_(data.x)
    size = data.x.numel() * data.x.element_size()
    return {
        "workload": work.name,
        "shape": work.shape,
        "groups": work.groups,
        "activation": work.activation,
        "layout": layout,
        "dtype": dtype_name,
        "direction": direction,
        "floor_bytes": size * (2 if direction == "forward" else 5),
        "seconds": measure(variants),
        "errors": {"groupnorm": found, "eager": errors(eager, work, data)},
    }


def speedup(row: dict[str, Any], peer: str = "eager") -> float:
    """How many times faster than the peer, by the medians."""
    seconds = row["seconds"]
    return float(seconds[peer]["median"] / seconds["groupnorm"]["median"])


def summarize(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Speed-ups by direction, dtype and layout: geometric means, and the worst cell over eager."""
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["direction"], row["dtype"], row["layout"]), []).append(row)
    summary = []
    for (direction, dtype, layout), group in found.items():
        ratios = [speedup(row) for row in group]
        worst = min(group, key=speedup)
        compiled = [speedup(row, "compile") for row in group if "compile" in row["seconds"]]
        summary.append(
            {
                "direction": direction,
                "dtype": dtype,
                "layout": layout,
                "cells": len(group),
                "geometric_mean": statistics.geometric_mean(ratios),
                "worst": min(ratios),
                "worst_workload": worst["workload"],
                "over_compile": statistics.geometric_mean(compiled) if compiled else None,
            }
        )
    return summary


def show(rows: list[dict[str, Any]], summary: list[dict[str, Any]]) -> None:
    """The record as tables in the terminal."""
    console = Console(width=150)
    cells = Table(title="median microseconds, GB/s of the floor, times faster than eager")
    for title in ("workload", "layout", "dtype", "direction", "ours", "GB/s", "eager", "copy",
                  "over copy", "speed-up"):  # fmt: skip
        cells.add_column(title, justify="right")
    for row in rows:
        s = {name: value["median"] for name, value in row["seconds"].items()}
        cells.add_row(
            row["workload"], row["layout"], row["dtype"], row["direction"],
            f"{s['groupnorm'] * 1e6:,.0f}", f"{row['floor_bytes'] / s['groupnorm'] / 1e9:.1f}",
            f"{s['eager'] * 1e6:,.0f}", f"{s['copy'] * 1e6:,.0f}",
            f"{s['groupnorm'] / s['copy']:.2f}", f"{speedup(row):.2f}",
        )  # fmt: skip
    console.print(cells)
    short = Table(title="times faster than PyTorch eager, and than torch.compile")
    for title in ("direction", "dtype", "layout", "cells", "geometric mean", "worst", "where",
                  "compile"):  # fmt: skip
        short.add_column(title, justify="right")
    for line in summary:
        compiled = line["over_compile"]
        short.add_row(
            line["direction"], line["dtype"], line["layout"], str(line["cells"]),
            f"{line['geometric_mean']:.2f}", f"{line['worst']:.2f}", line["worst_workload"],
            f"{compiled:.2f}" if compiled else "-",
        )  # fmt: skip
    console.print(short)


COLOURS = {"contiguous": "#0072b2", "channels_last": "#d55e00"}
MARKERS = {"float32": "o", "bfloat16": "s"}


def draw(record: dict[str, Any], path: Path) -> None:
    """Times faster than eager for every workload: a panel for each direction."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    names = list(dict.fromkeys(row["workload"] for row in record["rows"]))
    figure = Figure(figsize=(10, 0.32 * len(names) + 1.4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, direction in zip(panels, ("forward", "forward+backward"), strict=True):
        for layout, colour in COLOURS.items():
            for dtype, marker in MARKERS.items():
                rows = [
                    row
                    for row in record["rows"]
                    if (row["direction"], row["layout"], row["dtype"]) == (direction, layout, dtype)
                ]
                panel.plot(
                    [speedup(row) for row in rows],
                    [names.index(row["workload"]) for row in rows],
                    marker, color=colour, label=f"{layout}, {dtype}",
                    markerfacecolor=colour if dtype == "float32" else "none",
                )  # fmt: skip
        panel.axvline(1, color="0.5", linewidth=0.8)
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.xaxis.set_minor_formatter(
            FuncFormatter(lambda value, _: f"{value:g}" if value in (0.5, 2, 3, 5, 20) else "")
        )
        panel.tick_params(axis="x", which="both", labelsize=8)
        panel.grid(axis="x", which="both", linewidth=0.3)
        panel.set_title(direction.replace("+", " + "))
        panel.set_xlabel("times faster than PyTorch eager with its activation")
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    panels[1].legend(fontsize=8)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure every cell, print the tables, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="torch.compile too (slow to start)")
    parser.add_argument("--only", default="", help="workloads whose name contains this")
    parser.add_argument("--out", type=Path, help="folder for bench_ops.json and speed.png")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for work in WORKLOADS:
        if arguments.only not in work.name:
            continue
        for layout in ("contiguous", "channels_last")[: 2 if len(work.shape) in LAYOUTS else 1]:
            for dtype in DTYPES:
                rows += [
                    bench_cell(work, layout, dtype, direction, with_compile=arguments.compile)
                    for direction in ("forward", "forward+backward")
                ]
        print(f"{work.name}: done", flush=True)
    summary = summarize(rows)
    show(rows, summary)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        command = f"python benchmarks/bench_ops.py --threads {arguments.threads}"
        command += " --compile" if arguments.compile else ""
        command += f" --only {shlex.quote(arguments.only)}" if arguments.only else ""
        record = {
            "command": command,
            "environment": environment(),
            "summary": summary,
            "rows": rows,
        }
        (arguments.out / "bench_ops.json").write_text(json.dumps(record, indent=1) + "\n")
        draw(record, arguments.out / "speed.png")


if __name__ == "__main__":
    main()
