"""What the Triton kernels must move for every workload: from how they cut it, not from a GPU.

    python benchmarks/predict_traffic.py [--out FOLDER]

For each workload and layout: the path, the launches, and the bytes between chip and memory in units
of S, the bytes of the input. The resident path moves the floor (forward 2 S, backward 3 S); the
split path reads the input once more (forward 3 S, backward x and dy: 5 S) and writes and reads its
partial results. Where input, gradient and output together fit into the cache the second walk need
not go to memory: `within cache` says so. Predicted microseconds are these bytes at the speed of a
copy, plus nothing for launches.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from workloads import DTYPES, GPU, Workload, layouts

from groupnorm.ops.triton_plan import LIMITS, split, tiling

PROCESSORS = 132  # of an H200
CACHE = 50 * 2**20
COPY = 4.3e12  # bytes a second


def predict(work: Workload, layout: str, dtype: str, direction: str) -> dict[str, Any]:
    """One row of the table."""
    n, channels, *spatial = work.shape
    positions = math.prod(spatial)
    size = DTYPES[dtype].itemsize
    backward = direction == "backward"
    limit = LIMITS.resident_backward if backward else LIMITS.resident_forward
    cut = tiling(channels, work.groups, positions, size, layout == "channels_last", limit, LIMITS)
    whole = n * channels * positions * size
    walks, partials, launches = (3 if backward else 2), 0, 1
    splits = 1
    if not cut.resident:
        walks, launches = (5 if backward else 3), 2
        if backward:
            blocks = n * -(-channels // cut.block_c)
            splits, _ = split(cut.position_blocks, blocks, PROCESSORS, LIMITS, cut.block_c)
        else:
            splits, _ = split(cut.tiles, n * cut.slabs, PROCESSORS, LIMITS, cut.block_g)
    if backward:
        partials = 2 * splits * n * channels * 4
        launches += 1  # the sums of the parameters' gradients
    elif not cut.resident:
        partials = 4 * splits * n * work.groups * 4
    moved = walks * whole + 2 * partials
    lanes = cut.block_c * cut.channel_blocks * cut.slabs * cut.block_s * cut.position_blocks * n
    return {
        "workload": work.name, "shape": work.shape, "layout": layout, "dtype": dtype,
        "direction": direction, "path": "resident" if cut.resident else "split",
        "launches": launches, "programs": n * cut.slabs * (splits if not cut.resident else 1),
        "tile": [cut.block_c, cut.block_s], "splits": splits,
        "lanes_used": n * channels * positions / lanes,
        "walks": moved / whole, "within_cache": whole * (2 + backward) <= CACHE,
        "microseconds": moved / COPY * 1e6,
    }  # fmt: skip


def main() -> None:
    """Print the table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for traffic.json")
    arguments = parser.parse_args()
    rows = [
        predict(work, layout, dtype, direction)
        for work in GPU
        for layout in layouts(work)
        for dtype in work.dtypes
        for direction in ("forward", "backward")
    ]
    table = Table(title="predicted, not measured: walks are bytes moved over bytes of the input")
    for title in ("workload", "layout", "dtype", "direction", "path", "tile", "programs",
                  "lanes used", "walks", "in cache", "us at 4.3 TB/s"):  # fmt: skip
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(
            row["workload"], row["layout"], row["dtype"], row["direction"], row["path"],
            "x".join(map(str, row["tile"])), str(row["programs"]), f"{row['lanes_used']:.0%}",
            f"{row['walks']:.2f}", "yes" if row["within_cache"] else "",
            f"{row['microseconds']:.1f}",
        )  # fmt: skip
    Console(width=170).print(table)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        record = {"command": "python benchmarks/predict_traffic.py", "rows": rows}
        (arguments.out / "traffic.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
