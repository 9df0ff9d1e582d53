"""The forward pass without an activation, in copies of the same bytes, for tensors in the cache.

    python benchmarks/bench_copies.py [--out FILE.json]

In turns in one process, on one thread: the C++ kernel writing into a kept tensor, the call of
`group_norm` (which makes a new tensor), PyTorch's `group_norm`, and a copy into a kept tensor. Of
the workloads of bench_ops.py, those whose input has 0.1 to 12 MB: below, calls count more than
memory; above, input and output leave the last cache.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bench_ops import eager, turn
from bench_ops import ours as call
from rich.console import Console
from rich.table import Table
from torch import Tensor
from turns import on_cpu
from workloads import CPU, DTYPES, Inputs, Workload, layouts, make_inputs

from groupnorm.environment import environment
from groupnorm.ops.group_norm.activations import NUMBERS
from groupnorm.ops.group_norm.native import launch

BYTES = (0.1e6, 12e6)


def kernel_into(
    y: Tensor, work: Workload, data: Inputs, *, channels_last: bool
) -> Callable[[], Any]:
    """The C++ kernel alone, writing into `y`."""
    n, c = work.shape[:2]
    kernels = launch._kernels
    assert kernels is not None
    arguments = {
        "num_samples": n, "num_channels": c, "num_groups": work.groups,
        "num_positions": y.numel() // (n * c), "channels_last": channels_last,
        "type": launch._TYPES[y.dtype][0], "activation": NUMBERS[None], "eps": work.eps,
        "threads": 1, "parameters_as_input": True, "x": data.x.data_ptr(), "residual": 0,
        "weight": data.weight.data_ptr(), "bias": data.bias.data_ptr(), "y": y.data_ptr(),
        "mean": 0, "rstd": 0,
    }  # fmt: skip
    return lambda: kernels.forward(**arguments)


def bench_cell(work: Workload, layout: str, dtype: str) -> dict[str, Any] | None:
    """One row of the record; None for a tensor that is too small or too large."""
    data = make_inputs(work, layout, DTYPES[dtype])
    size = data.x.numel() * data.x.element_size()
    if not BYTES[0] <= size <= BYTES[1]:
        return None
    plain = work._replace(activation=None)
    made, kept = torch.empty_like(data.x), torch.empty_like(data.x)
    kernel = kernel_into(made, plain, data, channels_last=layout == "channels_last")
    kernel()
    called = turn(call, plain, data, "forward")()
    if not torch.equal(made, called):
        raise AssertionError(f"{work.name}, {layout}, {dtype}: kernel and call differ")
    seconds = on_cpu(
        {
            "kernel": kernel,
            "groupnorm": turn(call, plain, data, "forward"),
            "eager": turn(eager, plain, data, "forward"),
            "copy": lambda: kept.copy_(data.x),
        }
    )
    copy = seconds["copy"]["median"]
    return {
        "workload": work.name,
        "layout": layout,
        "dtype": dtype,
        "bytes": size,
        "seconds": seconds,
        "copies": {name: value["median"] / copy for name, value in seconds.items()},
    }


def summarize(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Geometric means and the worst cell of the kernel, by dtype and layout."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["dtype"], row["layout"]), []).append(row)
    summary = []
    for (dtype, layout), group in found.items():
        worst = max(group, key=lambda row: float(row["copies"]["kernel"]))
        line = {"dtype": dtype, "layout": layout, "cells": len(group)}
        for name in ("kernel", "groupnorm", "eager"):
            line[name] = statistics.geometric_mean(row["copies"][name] for row in group)
        line |= {"worst": worst["copies"]["kernel"], "worst_workload": worst["workload"]}
        summary.append(line)
    return summary


def main() -> None:
    """Measure, print, write the record."""
    parser = argparse.ArgumentParser(description="The forward pass in copies.")
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    rows = []
    for work in CPU:
        for layout in layouts(work):
            rows += [bench_cell(work, layout, dtype) for dtype in work.dtypes]
    measured = [row for row in rows if row is not None]
    summary = summarize(measured)
    table = Table(title="forward without an activation, in copies: geometric means")
    for title in ("dtype", "layout", "cells", "kernel", "worst", "where", "call", "eager"):
        table.add_column(title, justify="right")
    for line in summary:
        table.add_row(
            line["dtype"], line["layout"], str(line["cells"]), f"{line['kernel']:.2f}",
            f"{line['worst']:.2f}", line["worst_workload"], f"{line['groupnorm']:.2f}",
            f"{line['eager']:.2f}",
        )  # fmt: skip
    Console(width=120).print(table)
    record = {
        "command": "python benchmarks/bench_copies.py",
        "environment": environment(),
        "summary": summary,
        "rows": measured,
    }
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
