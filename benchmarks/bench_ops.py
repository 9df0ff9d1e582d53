"""Group norm and its activation: ours against PyTorch, other kernels and a copy, interleaved.

    python benchmarks/bench_ops.py [--threads 1] [--compile] [--only NAME] [--out FOLDER]
    python benchmarks/bench_ops.py --device cuda [--compile] [--only NAME] [--out FOLDER]

For every workload, layout, dtype and direction: first a correctness gate against float64 (the
others' errors are recorded, not gated), then all variants in turns in this one process. GB/s counts
the bytes that must move whatever the implementation (forward: read x, write y; backward: read x and
dy, write dx) over the median time. `copy` moves the bytes of the forward floor into a kept tensor.
On CUDA the backend is `triton`, times are those of the GPU with other data in its cache, the
backward pass is timed by itself, too, and Liger-Kernel and FlagGems run where they are installed
(pip install liger-kernel flag_gems). `in_a_row` in the record is the time of calls one after
another, which for small tensors is what Python and the launches cost.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import turns
import workloads
from peers import Peer, peers
from rich.console import Console
from rich.table import Table
from torch import Tensor
from workloads import DTYPES, Inputs, Workload, layouts, make_inputs

from groupnorm.environment import environment
from groupnorm.ops.group_norm import group_norm, reference
from groupnorm.ops.group_norm.activations import activate

# Largest error against float64, in units of the largest result (see tests/tolerances.py).
GATE = {torch.float32: 3e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}
DIRECTIONS: dict[str, tuple[str, ...]] = {
    "cpu": ("forward", "forward+backward"),
    "cuda": ("forward", "backward", "forward+backward"),
}
FLOOR = {"forward": 2, "backward": 3, "forward+backward": 5}


def ours(work: Workload, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The kernels for the device."""
    backend = "triton" if x.is_cuda else "native"
    return group_norm(
        x, work.groups, weight, bias, work.eps, activation=work.activation, backend=backend
    )


def eager(work: Workload, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """PyTorch's operator and its activation."""
    return activate(F.group_norm(x, work.groups, weight, bias, work.eps), work.activation)


Norm = Callable[[Workload, Tensor, Tensor, Tensor], Tensor]


def followed(peer: Peer) -> Norm:
    """A peer, and its activation after it."""

    def norm(work: Workload, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return activate(peer(x, work.groups, weight, bias, work.eps), work.activation)

    return norm


def turn(norm: Norm, work: Workload, data: Inputs, direction: str) -> Callable[[], Any]:
    """What is timed: one forward, or one forward and backward."""
    if direction == "forward":

        def forward() -> Tensor:
            with torch.no_grad():
                return norm(work, data.x, data.weight, data.bias)

        return forward
    leaves = [t.detach().requires_grad_() for t in (data.x, data.weight, data.bias)]

    if direction == "backward":
        y = norm(work, *leaves)
        return lambda: torch.autograd.grad(y, leaves, data.grad, retain_graph=True)

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


def bench_cell(
    work: Workload, layout: str, dtype_name: str, direction: str, device: str, compiled: list[str]
) -> dict[str, Any]:
    """One row of the record."""
    dtype = DTYPES[dtype_name]
    data = make_inputs(work, layout, dtype, device)
    found = errors(ours, work, data)
    if max(found.values()) > GATE[dtype]:
        raise AssertionError(f"{work.name}, {layout}, {dtype_name}: wrong by {found}")
    norms: dict[str, Norm] = {"groupnorm": ours, "eager": eager}
    if device == "cuda":
        norms |= {name: followed(peer) for name, peer in peers().items()}
    for mode in compiled:
        torch.compiler.reset()  # else the cells share one limit of recompilations
        norms["compile" if mode == "default" else mode] = torch.compile(
            eager, dynamic=False, mode=mode
        )
    variants, failed = {}, {}
    for name, norm in norms.items():
        try:
            variants[name] = turn(norm, work, data, direction)
            variants[name]()
        except Exception as error:
            if name == "groupnorm":
                raise
            variants.pop(name, None)
            failed[name] = f"{type(error).__name__}: {str(error)[:200]}"
    kept = torch.empty_like(data.x)
    variants["copy"] = lambda: kept.copy_(data.x)
    size = data.x.numel() * data.x.element_size()
    in_a_row = {"in_a_row": turns.in_a_row(variants)} if device == "cuda" else {}
    return {
        "workload": work.name,
        "shape": work.shape,
        "groups": work.groups,
        "activation": work.activation,
        "layout": layout,
        "dtype": dtype_name,
        "direction": direction,
        "floor_bytes": size * FLOOR[direction],
        "seconds": (turns.on_cuda if device == "cuda" else turns.on_cpu)(variants),
        **in_a_row,
        "errors": {"groupnorm": found, "eager": errors(eager, work, data)},
        "failed": failed,
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
MARKERS = {"float32": "o", "bfloat16": "s", "float16": "^"}


def draw(record: dict[str, Any], path: Path) -> None:
    """Times faster than eager for every workload: a panel for each direction."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    names = list(dict.fromkeys(row["workload"] for row in record["rows"]))
    dtypes = {row["dtype"] for row in record["rows"]}
    figure = Figure(figsize=(10, 0.32 * len(names) + 1.4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, direction in zip(panels, ("forward", "forward+backward"), strict=True):
        for layout, colour in COLOURS.items():
            for dtype in sorted(dtypes, reverse=True):
                rows = [
                    row
                    for row in record["rows"]
                    if (row["direction"], row["layout"], row["dtype"]) == (direction, layout, dtype)
                ]
                panel.plot(
                    [speedup(row) for row in rows],
                    [names.index(row["workload"]) for row in rows],
                    MARKERS[dtype], color=colour, label=f"{layout}, {dtype}",
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
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="torch.compile too (slow to start)")
    parser.add_argument("--only", default="", help="workloads whose name contains this")
    parser.add_argument("--out", type=Path, help="folder for bench_ops.json and speed.png")
    arguments = parser.parse_args()
    device = arguments.device
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a GPU, and torch finds none")
    torch.set_num_threads(arguments.threads)
    modes = {"cpu": ["default"], "cuda": ["default", "max-autotune-no-cudagraphs"]}
    compiled = modes[device] if arguments.compile else []
    rows = []
    for work in workloads.CPU if device == "cpu" else workloads.GPU:
        if arguments.only not in work.name:
            continue
        for layout in layouts(work):
            for dtype in work.dtypes:
                rows += [
                    bench_cell(work, layout, dtype, direction, device, compiled)
                    for direction in DIRECTIONS[device]
                ]
        print(f"{work.name}: done", flush=True)
    summary = summarize(rows)
    show(rows, summary)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        command = "python benchmarks/bench_ops.py"
        command += " --device cuda" if device == "cuda" else f" --threads {arguments.threads}"
        command += " --compile" if arguments.compile else ""
        command += f" --only {shlex.quote(arguments.only)}" if arguments.only else ""
        record = {
            "command": command,
            "environment": environment(),
            "summary": summary,
            "rows": rows,
        }
        (arguments.out / "bench_ops.json").write_text(
            json.dumps(record, indent=1) + "\n", encoding="utf-8"
        )
        draw(record, arguments.out / "speed.png")


if __name__ == "__main__":
    main()
