"""From which size on it pays to write the output past the cache, with what reads it next.

    python benchmarks/stores_past_cache.py [--rounds 11] [--out FOLDER]

Group norm of five tensors one after another, each followed by an operation that reads the output,
as in a network, where the next call has other tensors. Forward into kept memory, backward as a
training calls it, without an activation and with SiLU; blocks are kept. Sizes are at least shares
of the last level of the cache. Both ways to store take turns, on one thread and on all processors.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import turns
from bench_ops import COLOURS, MARKERS
from torch import Tensor

from groupnorm.counts import counted
from groupnorm.environment import environment
from groupnorm.files import write_atomic
from groupnorm.memory import keep_large_blocks
from groupnorm.ops.group_norm.native import launch

SHARES = (0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0)
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
DIRECTIONS = ("forward", "backward")
ACTIVATIONS = (None, "silu")
READERS = ("ReLU in place", "sum", "group norm")
RING, CHANNELS, GROUPS = 5, 320, 32
ALWAYS, NEVER = 1, 2**40  # sizes of a cache, in bytes, past which all outputs or none are written


class Ring:
    """Five inputs, with gradients and outputs of their own."""

    def __init__(
        self, shape: tuple[int, ...], dtype: str, layout: str, activation: str | None
    ) -> None:
        def tensors() -> list[Tensor]:
            drawn = torch.randn(RING, *shape, dtype=DTYPES[dtype])
            return [t.contiguous(memory_format=LAYOUTS[layout]).clone() for t in drawn]

        self.inputs, self.gradients, self.outputs = tensors(), tensors(), tensors()
        self.weight, self.bias = torch.ones(2, CHANNELS, dtype=DTYPES[dtype])
        self.activation = activation
        self.statistics = self.launch_forward(self.inputs[0], None)[1]

    def launch_forward(self, input: Tensor, out: Tensor | None) -> Any:
        """The kernels' output; with the statistics where `out` is None."""
        found = launch.quick_forward(
            input, GROUPS, self.weight, self.bias, 1e-5, self.activation, None, out is None, out
        )
        assert found is not None
        return found

    def forward(self, i: int) -> Tensor:
        """Of one of the tensors."""
        self.launch_forward(self.inputs[i], self.outputs[i])
        return self.outputs[i]

    def backward(self, i: int) -> Tensor:
        """Its gradient, in new memory; the statistics are another's, which costs the same."""
        found = launch.quick_backward(
            self.gradients[i], self.inputs[i], GROUPS, self.weight, self.bias, self.statistics,
            self.activation, None, False,
        )  # fmt: skip
        assert found is not None
        self.outputs[i] = found[0]
        return self.outputs[i]

    def read(self, reader: str, y: Tensor, i: int) -> None:
        """What comes after the norm; group norm itself by ordinary stores."""
        if reader == "ReLU in place":
            torch.relu_(y)
        elif reader == "sum":
            torch.add(y, 1, out=self.gradients[i])
        else:
            set_cache_bytes(NEVER)
            self.launch_forward(y, self.gradients[i])


def set_cache_bytes(size: int) -> int:
    """Have the kernels take the last level of the cache for so large; gives what it was."""
    before: int = launch._kernels.set_cache_bytes(size)  # type: ignore[union-attr]
    return before


def measure(ring: Ring, direction: str, reader: str, rounds: int) -> dict[str, float]:
    """Median seconds of one norm and its reader, either way, and how much faster past the cache."""
    call: Callable[[int], Tensor] = getattr(ring, direction)

    def once_around(size: int) -> None:
        for i in range(RING):
            set_cache_bytes(size)
            ring.read(reader, call(i), i)

    variants: turns.Variants = {
        "past": partial(once_around, ALWAYS),
        "cached": partial(once_around, NEVER),
    }
    seconds = turns.on_cpu(variants, rounds=rounds)
    past, cached = (seconds[name]["median"] / RING for name in variants)
    return {"past_cache_seconds": past, "cached_seconds": cached, "times_faster": cached / past}


def shape_of(share: float, dtype: str, cache_bytes: int) -> tuple[int, int, int, int]:
    """The smallest map of at least such a share of the cache whose groups are whole vectors."""
    images = 2 if dtype == "float32" else 4
    of_position = images * CHANNELS * DTYPES[dtype].itemsize
    side = 4 * math.ceil(math.sqrt(share * cache_bytes / of_position) / 4)
    return images, CHANNELS, side, side


def measure_all(rounds: int) -> dict[str, Any]:
    """Every size, layout, type, activation, direction and reader, on one thread and on all."""
    cache_bytes, threads_before = set_cache_bytes(NEVER), torch.get_num_threads()
    if not cache_bytes:
        raise SystemExit("this machine does not tell the size of its last-level cache")
    rows = []
    try:
        for threads in dict.fromkeys((1, len(os.sched_getaffinity(0)))):
            torch.set_num_threads(threads)
            for case in itertools.product(DTYPES, LAYOUTS, ACTIVATIONS, SHARES):
                dtype, layout, activation, share = case
                shape = shape_of(share, dtype, cache_bytes)
                ring = Ring(shape, dtype, layout, activation)
                for direction, reader in itertools.product(DIRECTIONS, READERS):
                    row = {
                        "threads": threads, "dtype": dtype, "layout": layout,
                        "activation": activation, "share": share, "shape": shape,
                        "bytes": math.prod(shape) * DTYPES[dtype].itemsize,
                        "direction": direction, "reader": reader,
                    }  # fmt: skip
                    rows.append(row | measure(ring, direction, reader, rounds))
                of_case = ", ".join(map(str, (counted(threads, "thread"), *case)))
                print(f"{of_case} of the cache", flush=True)
    finally:
        set_cache_bytes(cache_bytes)
        torch.set_num_threads(threads_before)
    return {
        "command": f"python benchmarks/stores_past_cache.py --rounds {rounds}",
        "environment": environment(),
        "cache_bytes": cache_bytes,
        "summary": summary(rows),
        "rows": rows,
    }


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Times faster past the cache, over the readers."""
    names = ("direction", "activation", "dtype", "layout", "threads", "bytes")
    found: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in names), []).append(row["times_faster"])
    return [
        dict(zip(names, key, strict=True))
        | {
            "geometric_mean": statistics.geometric_mean(times),
            "least": min(times),
            "greatest": max(times),
        }
        for key, times in found.items()
    ]


def draw(record: dict[str, Any], path: Path) -> None:
    """Times faster by the size, a panel for each direction and activation."""
    from matplotlib.figure import Figure

    curves: dict[tuple[Any, ...], list[tuple[float, float]]] = {}
    for line in record["summary"]:
        panel, curve = (line["direction"], line["activation"]), (line["layout"], line["dtype"])
        key = (panel, *curve, line["threads"])
        curves.setdefault(key, []).append((line["bytes"] / 1e6, line["geometric_mean"]))
    figure = Figure(figsize=(10, 6.6), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey=True)
    for axes, (direction, activation) in zip(
        panels.flat, itertools.product(DIRECTIONS, ACTIVATIONS), strict=True
    ):
        for (panel, layout, dtype, threads), points in curves.items():
            if panel != (direction, activation):
                continue
            axes.plot(
                *zip(*points, strict=True), MARKERS[dtype] + ("-" if threads == 1 else "--"),
                color=COLOURS[layout], markersize=4,
                markerfacecolor=COLOURS[layout] if dtype == "float32" else "white",
                label=f"{layout}, {dtype}, {counted(threads, 'thread')}",
            )  # fmt: skip
        axes.axhline(1, color="0.5", linewidth=0.8)
        axes.set_title(direction + (", SiLU" if activation else ""))
        axes.grid(linewidth=0.3)
    for axes in panels[1]:
        axes.set_xlabel(f"MB of the output (last level: {record['cache_bytes'] / 1e6:.1f} MB)")
    for axes in panels[:, 0]:
        axes.set_ylabel("times faster past the cache")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, ncols=3, loc="outside lower center")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure, print, write the record and the figure."""
    parser = argparse.ArgumentParser(description="When stores past the cache pay.")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--out", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error(f"--rounds must be at least 2, got {arguments.rounds}")
    if not keep_large_blocks():
        raise SystemExit("this needs glibc, which can keep freed blocks")
    record = measure_all(arguments.rounds)
    for line in record["summary"]:
        print(
            f"{line['direction']}, {line['activation']}, {line['dtype']}, {line['layout']}, "
            f"{counted(line['threads'], 'thread')}, {line['bytes'] / 1e6:.1f} MB: "
            f"{line['geometric_mean']:.2f} times faster past the cache "
            f"({line['least']:.2f} to {line['greatest']:.2f})"
        )
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(record, indent=1) + "\n"
        write_atomic(arguments.out / "stores_past_cache.json", text)
        draw(record, arguments.out / "stores_past_cache.png")


if __name__ == "__main__":
    main()
