"""Group norm and its activation: ours against PyTorch, other kernels and a copy, interleaved.

    python benchmarks/bench_ops.py [--threads 1] [--compile] [--only NAME] [--out FOLDER]
    python benchmarks/bench_ops.py --device cuda [--compile] [--only NAME] [--out FOLDER]

For every workload, layout and dtype: first a correctness gate against float64 (the others' errors
are recorded, not gated), then all variants of each direction in turns in one process. `copy` moves
the bytes of the forward floor into a kept tensor: times in copies are times over that one.

On the CPU each run is a process of its own: five where glibc was told to keep large blocks, and one
where it was not (`default`), since new outputs then cost page faults that depend on what the
process did before. A figure is the median of the runs, on one thread of CPU time, in which other
work counts less. `kernel` is the C++ function alone, which writes its output into a kept tensor
(its gradients into new ones), `in_place` the same over its input; the others are called through
Python and make new outputs. torch.compile runs in one of the five, in float32 and bfloat16. `calls`
in the record is what calls cost beside their arithmetic.

On CUDA the backend is `triton`, times are those of the GPU with other data in its cache, and
Liger-Kernel and FlagGems run where they are installed (pip install liger-kernel flag_gems).
`in_a_row` in the record is the time of calls one after another, which for small tensors is what
Python and the launches cost.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shlex
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import call_overhead
import torch
import torch.nn.functional as F
import turns
import workloads
from kernel_alone import kernel_alone
from peers import Peer, peers
from rich.console import Console
from rich.table import Table
from torch import Tensor
from workloads import DTYPES, SHAPES, Inputs, Workload, layouts, make_inputs

from groupnorm import keep_large_blocks
from groupnorm.environment import cpu_name, environment
from groupnorm.files import write_atomic
from groupnorm.ops.group_norm import group_norm, reference
from groupnorm.ops.group_norm.activations import activate

# Largest error against float64, in units of the largest result (see tests/tolerances.py).
GATE = {torch.float32: 3e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}
FLOOR = {"forward": 2, "backward": 3, "forward+backward": 5}  # tensors that must move
DIRECTIONS = tuple(FLOOR)
REPEATS, ROUNDS = 5, 3
PLAIN, RELU, OTHERS = "seven shapes", "seven shapes, ReLU", "workloads"

# What the kernels are to reach on one thread. Copies that the kernel alone may take over the seven
# shapes, and times faster than PyTorch eager followed by its ReLU there, both as geometric means.
MOST_COPIES = {
    ("forward", "float32", "contiguous"): 1.5,
    ("forward", "float32", "channels_last"): 1.9,
    ("forward", "bfloat16", "contiguous"): 1.9,
    ("forward", "bfloat16", "channels_last"): 2.3,
    ("backward", "float32", "contiguous"): 2.9,
    ("backward", "float32", "channels_last"): 3.6,
    ("backward", "bfloat16", "contiguous"): 3.1,
    ("backward", "bfloat16", "channels_last"): 3.8,
}
LEAST_SPEED = {
    ("forward", "float32", "contiguous"): 2.2,
    ("forward", "float32", "channels_last"): 2.2,
    ("forward", "bfloat16", "contiguous"): 2.2,
    ("forward", "bfloat16", "channels_last"): 2.2,
    ("forward+backward", "float32", "contiguous"): 2.0,
    ("forward+backward", "float32", "channels_last"): 2.5,
    ("forward+backward", "bfloat16", "contiguous"): 2.5,
    ("forward+backward", "bfloat16", "channels_last"): 10.0,
}


class Run(NamedTuple):
    """What one process measures."""

    device: str
    threads: int
    only: str
    compiled: tuple[str, ...]
    kept: bool
    first: bool


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
    """What is timed: one forward, one backward, or both."""
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


def kernels(work: Workload, data: Inputs, direction: str) -> turns.Variants:
    """The C++ kernel alone; without an activation also in place.

    What is written in place is normalized again by the next call: scale 1 and shift 0 leave it as
    it is.
    """
    if direction == "forward+backward":
        return {}
    out = torch.empty_like(data.x)
    found = {"kernel": kernel_alone(work, data, direction, out)}
    if direction == "forward" and work.activation is None:
        x = data.x.clone()
        plain = Inputs(x, torch.ones_like(data.weight), torch.zeros_like(data.bias), data.grad)
        found["in_place"] = kernel_alone(work, plain, direction, x)
    return found


def check(work: Workload, data: Inputs, layout: str) -> dict[str, dict[str, float]]:
    """Largest errors of output and gradients against float64, over the largest true value.

    Raises:
        AssertionError: ours are too large, or the kernel alone gives something else.
    """
    x, weight, bias, grad = (t.double() for t in data)
    y, mean, rstd = reference.forward(x, work.groups, weight, bias, work.eps, work.activation)
    dx, dweight, dbias, _ = reference.backward(
        grad, x, work.groups, weight, bias, mean, rstd, work.activation
    )
    true = {"y": y, "dx": dx, "dweight": dweight, "dbias": dbias}
    errors = {}
    for name, norm in (("groupnorm", ours), ("eager", eager)):
        found = [turn(norm, work, data, "forward")()]
        found += turn(norm, work, data, "forward+backward")()
        errors[name] = {
            key: float((result.double() - t).abs().max() / t.abs().max())
            for (key, t), result in zip(true.items(), found, strict=True)
        }
        if name == "groupnorm" and not x.is_cuda:
            for direction, result in (("forward", found[0]), ("backward", found[1])):
                made = kernel_alone(work, data, direction, torch.empty_like(data.x))()
                if not torch.equal(made if direction == "forward" else made[0], result):
                    raise AssertionError(f"{work.name}, {layout}: kernel and call differ")
    if max(errors["groupnorm"].values()) > GATE[data.x.dtype]:
        raise AssertionError(f"{work.name}, {layout}, {data.x.dtype}: wrong by {errors}")
    return errors


def measure_cell(run: Run, work: Workload, layout: str, dtype: str) -> Iterator[dict[str, Any]]:
    """A row of the record for each direction."""
    data = make_inputs(work, layout, DTYPES[dtype], run.device)
    errors = check(work, data, layout) if run.first else {}
    norms: dict[str, Norm] = {"groupnorm": ours, "eager": eager}
    if run.device == "cuda":
        norms |= {name: followed(peer) for name, peer in peers().items()}
    copied = torch.empty_like(data.x)
    for direction in DIRECTIONS:
        called = dict(norms)
        if run.device == "cuda" or (direction != "backward" and dtype != "float16"):
            for mode in run.compiled:
                torch.compiler.reset()  # else the cells share one limit of recompilations
                called["compile" if mode == "default" else mode] = torch.compile(
                    eager, dynamic=False, mode=mode
                )
        variants, failed = {}, {}
        if run.device == "cpu" and run.kept:
            variants = kernels(work, data, direction)
        for name, norm in called.items():
            try:
                variants[name] = turn(norm, work, data, direction)
                variants[name]()
            except Exception as error:
                if name == "groupnorm":
                    raise
                variants.pop(name, None)
                failed[name] = f"{type(error).__name__}: {str(error)[:200]}"
        variants["copy"] = lambda: copied.copy_(data.x)
        if run.device == "cuda":
            seconds = {"seconds": turns.on_cuda(variants), "in_a_row": turns.in_a_row(variants)}
        else:
            seconds = {"seconds": turns.on_cpu(variants, clock(run), ROUNDS)}
        yield {
            "workload": work.name,
            "among": OTHERS if work not in SHAPES else RELU if work.activation else PLAIN,
            "shape": work.shape,
            "groups": work.groups,
            "activation": work.activation,
            "layout": layout,
            "dtype": dtype,
            "direction": direction,
            "cpu": cpu_name(),
            "threads": run.threads,
            "floor_bytes": data.x.numel() * data.x.element_size() * FLOOR[direction],
            **seconds,
            "errors": errors,
            "failed": failed,
        }


def measure(run: Run) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of every cell, and of calls on the CPU, measured in this process."""
    torch.set_num_threads(run.threads)
    if run.kept and not keep_large_blocks():
        raise SystemExit("glibc keeps no blocks here, or this is another C library")
    rows: list[dict[str, Any]] = []
    for work in workloads.GPU if run.device == "cuda" else SHAPES + workloads.CPU:
        if run.only not in work.name:
            continue
        for layout in layouts(work):
            for dtype in work.dtypes:
                rows += measure_cell(run, work, layout, dtype)
        print(f"{work.name}: done", flush=True)
    calls = call_overhead.measure(clock(run)) if run.device == "cpu" and run.kept else []
    return rows, calls


def clock(run: Run) -> Callable[[], float]:
    """CPU time on one thread, in which other work counts less; else time that passes."""
    return time.process_time if run.threads == 1 else time.perf_counter


def measure_on_cpu(run: Run, repeats: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The same from processes of their own, one after another, which keep blocks and which do not.

    Returns:
        rows with the medians over the runs as `seconds`, and those of the run that keeps no blocks
        as `default`; the rows of calls.
    """
    runs = [run._replace(first=i == 0, compiled=run.compiled if i == 0 else ())
            for i in range(repeats)]  # fmt: skip
    runs.append(run._replace(kept=False, first=False, compiled=()))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        *kept, (default, _) = pool.map(measure, runs)
    rows = []
    for *same, other in zip(*(found for found, _ in kept), default, strict=True):
        seconds = medians([row["seconds"] for row in same])
        rows.append({**same[0], "seconds": seconds, "default": medians([other["seconds"]])})
    calls = [
        {**same[0], **{
            state: {name: statistics.median(row[state][name] for row in same)
                    for name in same[0][state]}
            for state in ("warm", "cold")
        }}
        for same in zip(*(found for _, found in kept), strict=True)
    ]  # fmt: skip
    return rows, calls


def medians(runs: list[turns.Seconds]) -> turns.Seconds:
    """Of the runs' medians, the median, the least and the greatest."""
    found = {}
    for name in runs[0]:
        values = [run[name]["median"] for run in runs if name in run]
        summary = {"median": statistics.median(values), "low": min(values), "high": max(values)}
        found[name] = {key: float(f"{value:.4g}") for key, value in summary.items()}
    return found


def speedup(row: dict[str, Any], peer: str = "eager", times: str = "seconds") -> float:
    """How many times faster than the peer, by the medians."""
    seconds = row[times]
    return float(seconds[peer]["median"] / seconds["groupnorm"]["median"])


def copies(row: dict[str, Any], name: str, times: str = "seconds") -> float:
    """The median in copies."""
    return float(row[times][name]["median"] / row["seconds"]["copy"]["median"])


def least(row: dict[str, Any]) -> float:
    """How many times faster than eager a cell is to be."""
    return 0.9 if row["activation"] is None else 1.0


def margin(row: dict[str, Any]) -> float:
    """How fast a cell is beside how fast it is to be."""
    return speedup(row) / least(row)


def mean(values: list[float]) -> float | None:
    """Geometric mean; None of nothing."""
    return statistics.geometric_mean(values) if values else None


def grouped(rows: list[dict[str, Any]]) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    """Rows by direction, dtype and layout."""
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["direction"], row["dtype"], row["layout"]), []).append(row)
    return found


def summarize(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Geometric means and worst cells by direction, dtype and layout.

    `copies`: over the seven shapes without an activation. `speed`: times faster than eager, and
    than torch.compile, for each set of workloads.
    """
    found: dict[str, list[dict[str, Any]]] = {"copies": [], "speed": []}
    for key, group in grouped([row for row in rows if row["among"] == PLAIN]).items():
        names = [name for name in group[0]["seconds"] if name != "copy"]
        judged = "kernel" if "kernel" in names else "groupnorm"
        worst = max(group, key=lambda row, judged=judged: copies(row, judged))  # type: ignore[misc]
        line = described(PLAIN, key, group)
        line |= {n: mean([copies(row, n) for row in group if n in row["seconds"]]) for n in names}
        if "default" in group[0]:
            line |= {
                f"{name}_default": mean([copies(row, name, "default") for row in group])
                for name in ("groupnorm", "eager")
            }
        line |= {"worst": copies(worst, judged), "worst_workload": worst["workload"]}
        found["copies"].append(line | {"target": MOST_COPIES.get(key)})
    for among in (PLAIN, RELU, OTHERS):
        for key, group in grouped([row for row in rows if row["among"] == among]).items():
            worst = min(group, key=margin)
            compiled = [speedup(row, "compile") for row in group if "compile" in row["seconds"]]
            default = [speedup(row, times="default") for row in group if "default" in row]
            line = described(among, key, group) | {
                "geometric_mean": mean([speedup(row) for row in group]),
                "default": mean(default),
                "over_compile": mean(compiled),
                "worst": speedup(worst),
                "worst_workload": worst["workload"],
                "target": LEAST_SPEED.get(key) if among == RELU else None,
                "target_worst": least(worst) if default and key[0] != "backward" else None,
            }
            found["speed"].append(line)
    return found


def described(among: str, key: tuple[str, str, str], group: list[dict[str, Any]]) -> dict[str, Any]:
    """What a line of a summary is about."""
    direction, dtype, layout = key
    return {
        "among": among,
        "direction": direction,
        "dtype": dtype,
        "layout": layout,
        "cells": len(group),
    }


def number(value: float | None, places: int = 2) -> str:
    """A number of a table, or nothing."""
    return "" if value is None else f"{value:,.{places}f}"


def show(record: dict[str, Any]) -> None:
    """The record as tables in the terminal."""
    console = Console(width=190)
    cells = Table(title="median microseconds; copies of the same bytes; times faster than eager")
    for title in ("workload", "layout", "dtype", "direction", "ours", "GB/s", "eager", "copy",
                  "kernel/copy", "ours/copy", "eager/copy", "speed-up", "default"):  # fmt: skip
        cells.add_column(title, justify="right")
    for row in record["rows"]:
        s = {name: value["median"] for name, value in row["seconds"].items()}
        default = speedup(row, times="default") if "default" in row else None
        cells.add_row(
            *(row[key] for key in ("workload", "layout", "dtype", "direction")),
            number(1e6 * s["groupnorm"], 0),
            number(row["floor_bytes"] / s["groupnorm"] / 1e9, 1),
            *(number(1e6 * s[name], 0) for name in ("eager", "copy")),
            *(number(copies(row, name)) if name in s else ""
              for name in ("kernel", "groupnorm", "eager")),
            number(speedup(row)),
            number(default),
        )  # fmt: skip
    console.print(cells)
    show_summary(
        console,
        "in copies, geometric means over the seven shapes, no activation",
        record["summary"]["copies"],
        ("kernel", "in_place", "groupnorm", "eager", "compile", "groupnorm_default",
         "eager_default", "target", "worst"),
    )  # fmt: skip
    show_summary(
        console,
        "times faster than PyTorch eager with its activation, geometric means",
        record["summary"]["speed"],
        ("geometric_mean", "target", "default", "over_compile", "worst", "target_worst"),
    )
    for row in record["calls"]:
        times = (f"{state} {row[state]['groupnorm']:.1f}, PyTorch {row[state]['eager']:.1f}"
                 for state in ("warm", "cold"))  # fmt: skip
        console.print(f"{row['what']}, {row['direction']}: {'; '.join(times)} microseconds")


def show_summary(
    console: Console, title: str, lines: list[dict[str, Any]], names: tuple[str, ...]
) -> None:
    """Lines of a summary as a table, if there are any."""
    if not lines:
        return
    table = Table(title=title)
    keys = ("among", "direction", "dtype", "layout", "cells")
    for column in (*keys, *names, "where"):
        table.add_column(column, justify="right")
    for line in lines:
        figures = (number(line.get(name)) for name in names)
        table.add_row(*(str(line[key]) for key in keys), *figures, line["worst_workload"])
    console.print(table)


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
        panel.margins(y=0.02)
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
    handles, labels = panels[1].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, ncols=3, loc="outside lower center")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure every cell, print the tables, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="torch.compile too (slow to start)")
    parser.add_argument("--only", default="", help="workloads whose name contains this")
    parser.add_argument(
        "--repeats", type=int, default=REPEATS, help="processes that keep blocks, on the CPU"
    )
    parser.add_argument("--out", type=Path, help="folder for bench_ops.json and speed.png")
    arguments = parser.parse_args()
    device = arguments.device
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a GPU, and torch finds none")
    modes = {"cpu": ("default",), "cuda": ("default", "max-autotune-no-cudagraphs")}
    compiled = modes[device] if arguments.compile else ()
    run = Run(device, arguments.threads, arguments.only, compiled, kept=device == "cpu", first=True)
    rows, calls = measure_on_cpu(run, arguments.repeats) if device == "cpu" else measure(run)
    command = "python benchmarks/bench_ops.py"
    command += " --device cuda" if device == "cuda" else f" --threads {arguments.threads}"
    command += f" --repeats {arguments.repeats}" if arguments.repeats != REPEATS else ""
    command += " --compile" if arguments.compile else ""
    command += f" --only {shlex.quote(arguments.only)}" if arguments.only else ""
    torch.set_num_threads(arguments.threads)  # what the environment tells
    record = {
        "command": command,
        "environment": environment(),
        "repeats": arguments.repeats,
        "summary": summarize(rows),
        "calls": calls,
        "rows": rows,
    }
    show(record)
    if arguments.out:
        write_atomic(arguments.out / "bench_ops.json", json.dumps(record, indent=1) + "\n")
        draw(record, arguments.out / "speed.png")


if __name__ == "__main__":
    main()
