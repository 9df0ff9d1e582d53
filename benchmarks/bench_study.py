"""The default study's grid against a plain script, same work, interleaved.

    python benchmarks/bench_study.py [--rounds 2] [--epochs 5] [--train-images 6000] [--out FILE]

Work: the five trials of the default study (batch norm over 32, 8 and 2 images of a 32-image step,
group norm, group norm with weight standardization; ResNet-8; fashion-scenes), some epochs each at
full size, with the evaluation on the test images after every epoch. Each round runs the plain
script's five trials in a process of their own with torch's default threads, then the study's five
trials as the study runs them.

Reported: the wall time of the whole grid, with start-up and evaluation, median over the rounds. Our
evaluation does more: it also recomputes batch norm's statistics and tests with those, as the study
does after its last epoch. The speed of single trials compares nothing: ours share the machine,
and the last of an odd number has it to itself.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from groupnorm import data
from groupnorm.environment import environment
from groupnorm.experiments.small_images import GN, batch_fields, quick
from groupnorm.study.plan import vary
from groupnorm.study.runners.local import run_trials
from groupnorm.study.runners.progress import StudyProgress
from groupnorm.training.config import RunConfig

TRIALS = (("bn", 32), ("bn", 8), ("bn", 2), (GN, 32), (f"{GN}+ws", 32))


def plain(train_images: int, epochs: int) -> None:
    """The plain script's five trials, one after the other."""
    sys.path.insert(0, str(Path(__file__).parent))
    import plain_study

    full = data.load(data.DEFAULT)
    assert isinstance(full, data.ImageSet)
    part = replace(
        full,
        train_images=full.train_images[:train_images].contiguous(),
        train_labels=full.train_labels[:train_images],
    )
    for norm, chunk in TRIALS:
        kind = "bn" if norm == "bn" else "gn+ws" if norm.endswith("+ws") else "gn"
        images = chunk if kind == "bn" else plain_study.STEP_IMAGES
        plain_study.train(part, kind, images, epochs)


def run_plain(train_images: int, epochs: int) -> dict[str, Any]:
    """The plain side in a fresh process without any of our settings."""
    command = [sys.executable, __file__, "--plain"]
    command += ["--train-images", str(train_images), "--epochs", str(epochs)]
    began = time.perf_counter()
    environ = {k: v for k, v in os.environ.items() if not k.endswith("NUM_THREADS")}
    subprocess.run(command, check=True, env=environ)
    return {"wall": time.perf_counter() - began}


def run_ours(train_images: int, epochs: int, jobs: int) -> dict[str, Any]:
    """The study's side: the runner with one thread a trial."""
    configs: dict[str, RunConfig] = {}
    for norm, chunk in TRIALS:
        fields = {**batch_fields(chunk, "fixed-step"), "size_schedule": (), "evaluate_every": 1}
        config = vary(quick(), norm=norm, epochs=epochs, train_images=train_images, **fields)
        configs[config.run_name()] = config
    console = Console(quiet=True)
    with tempfile.TemporaryDirectory() as folder, StudyProgress(configs, console) as progress:
        began = time.perf_counter()
        records = run_trials(Path(folder), configs, progress, jobs=jobs, threads=1)
        wall = time.perf_counter() - began
    assert all(record.status == "finished" for record in records), records
    return {"wall": wall}


def main() -> None:
    """Run the rounds, print the table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--train-images", type=int, default=6000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plain:
        plain(arguments.train_images, arguments.epochs)
        return
    data.load(data.DEFAULT)  # made once, before anything is timed
    cores = len(os.sched_getaffinity(0))
    rounds = []
    for number in range(1, arguments.rounds + 1):
        rounds.append(
            {
                "plain": run_plain(arguments.train_images, arguments.epochs),
                "groupnorm": run_ours(arguments.train_images, arguments.epochs, cores),
            }
        )
        walls = {side: rounds[-1][side]["wall"] for side in rounds[-1]}
        print(f"round {number}: {walls}", flush=True)
    record = summarize(rounds, cores)
    record |= {
        "command": f"python benchmarks/bench_study.py --rounds {arguments.rounds} "
        f"--epochs {arguments.epochs} --train-images {arguments.train_images}",
        "environment": environment(),
        "rounds": rounds,
    }
    show(record)
    if arguments.out:
        arguments.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def summarize(rounds: list[dict[str, Any]], cores: int) -> dict[str, Any]:
    """How many times sooner ours is done: median and range over the rounds."""
    walls = sorted(r["plain"]["wall"] / r["groupnorm"]["wall"] for r in rounds)
    ratio = {"median": statistics.median(walls), "min": walls[0], "max": walls[-1]}
    return {"wall_ratio": ratio, "cores": cores}


def show(record: dict[str, Any]) -> None:
    """The record in the terminal."""
    r = record["wall_ratio"]
    print(f"whole grid: {r['median']:.2f} times sooner (from {r['min']:.2f} to {r['max']:.2f})")


if __name__ == "__main__":
    main()
