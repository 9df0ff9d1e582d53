"""What the Triton kernels must move for every workload: from how they cut it, not from a GPU.

    python benchmarks/predict_traffic.py [--out FOLDER]

For each workload and layout: the path, the launches, and the bytes between chip and memory in units
of S, the bytes of the input. Forward, x is read and y written, 2 S; backward, x and dy are read and
dx written, 3 S. The resident path reads once. The others read x, or x and dy, a second time, which
the cache serves if it holds what is read in between ("between"): for the looped path, the slabs
of the programs that run at a time; for the split path, all. Where it does not, that is S or 2 S
more. Partial results are written and read. Predicted microseconds are these bytes at the speed of a
copy, without launches.
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

from groupnorm.ops.group_norm.triton.plan import LIMITS, plan_of

PROCESSORS = 132  # of an H200
CACHE = 50 * 2**20
COPY = 4.3e12  # bytes a second


def predict(work: Workload, layout: str, dtype: str, direction: str) -> dict[str, Any]:
    """One row of the table."""
    n, channels, *spatial = work.shape
    positions = math.prod(spatial)
    size = DTYPES[dtype].itemsize
    backward = direction == "backward"
    plan = plan_of(
        (n, channels, positions), work.groups, size, layout == "channels_last", PROCESSORS,
        backward=backward, residual=False,
    )  # fmt: skip
    cut = plan.cut
    whole = n * channels * positions * size
    read = 2 if backward else 1  # tensors; one is written
    slab = cut.slab_groups * cut.group_size * positions * size * read
    # What is read between the walks: by the programs that run at a time, or everything.
    at_a_time = PROCESSORS * LIMITS.programs_per_processor * slab
    again = {"resident": 0, "looped": min(at_a_time, whole * read), "split": whole * read}[
        plan.path
    ]
    launches = 2 if plan.path == "split" else 1
    partials = 0
    if backward:  # the sums of each channel, and then of all samples
        partials = 2 * plan.splits * n * channels * 4
        launches += 1 + (plan.splits > 1 and plan.splits * cut.block_c > LIMITS.partials)
    elif plan.path == "split":
        partials = 4 * plan.parts * n * work.groups * 4
    within_cache = again <= CACHE
    walks = read + 1 + (0 if within_cache else read)
    lanes = cut.block_c * cut.channel_blocks * cut.slabs * cut.block_s * cut.position_blocks * n
    return {
        "workload": work.name, "shape": work.shape, "layout": layout, "dtype": dtype,
        "direction": direction, "path": plan.path, "launches": launches,
        "programs": n * cut.slabs * plan.parts, "tile": [cut.block_c, cut.block_s],
        "lanes_used": n * channels * positions / lanes, "again_megabytes": again / 1e6,
        "within_cache": within_cache, "walks": walks + 2 * partials / whole,
        "microseconds": (walks * whole + 2 * partials) / COPY * 1e6,
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
                  "lanes used", "between", "walks", "us at 4.3 TB/s"):  # fmt: skip
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(
            row["workload"], row["layout"], row["dtype"], row["direction"], row["path"],
            "x".join(map(str, row["tile"])), str(row["programs"]), f"{row['lanes_used']:.0%}",
            f"{row['again_megabytes']:.0f} MB", f"{row['walks']:.2f}",
            f"{row['microseconds']:.1f}",
        )  # fmt: skip
    Console(width=170).print(table)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        record = {
            "command": "python benchmarks/predict_traffic.py",
            "assumed": {"processors": PROCESSORS, "cache_bytes": CACHE, "copy_bytes_per_s": COPY},
            "rows": rows,
        }
        (arguments.out / "traffic.json").write_text(
            json.dumps(record, indent=1) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
