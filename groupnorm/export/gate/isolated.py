"""Files run in a process of its own: a runtime that crashes takes that one with it."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from groupnorm.export.errors import ExportError
from groupnorm.export.runtimes.quiet import first

Array = np.ndarray[Any, Any]

ROUNDS = 10
_ENOUGH = 3.0  # seconds of rounds after which there are no more
_SECONDS = 600  # for each run
_RESULT = "result.json"


@dataclass(frozen=True)
class Ran:
    """What a file gave.

    Attributes:
        outputs: of each set of inputs, or why it gave none.
        milliseconds: of one call on the first set, the least of `ROUNDS` or of those of some
            seconds; None of other files than the first, and where it gave none.
    """

    outputs: list[list[Array] | ExportError]
    milliseconds: float | None


def run_isolated(runtime: Any, *files: tuple[Path, Sequence[Sequence[Array]]]) -> list[Ran]:
    """Load files and run each on some sets of inputs, in another process.

    Args:
        runtime: module of `groupnorm.export.runtimes`.
        files: each, and its sets of inputs.

    Raises:
        ExportError: a file cannot be loaded, or the runtime ended the process, or took more than
            ten minutes a run.
    """
    name = runtime.__name__.rpartition(".")[2]
    with tempfile.TemporaryDirectory() as text:
        folders = [Path(text) / str(number) for number in range(len(files))]
        for folder, (_, inputs) in zip(folders, files, strict=True):
            folder.mkdir()
            for number, arrays in enumerate(inputs):
                np.savez(folder / f"in{number}.npz", *arrays)
        given = [
            str(one) for pair in zip(files, folders, strict=True) for one in (pair[0][0], pair[1])
        ]
        limit = _SECONDS * (1 + sum(len(inputs) for _, inputs in files))
        try:
            done = subprocess.run(
                # -P: or files of the current folder would be imported for modules
                [sys.executable, "-P", "-m", __name__, runtime.__name__, *given],
                capture_output=True, timeout=limit,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise ExportError(f"{name} did not finish in {limit} s") from None
        if done.returncode < 0:
            ended = signal.Signals(-done.returncode).name
            raise ExportError(
                f"{name} ends the process ({ended}) when it loads or runs what was written"
            )
        if done.returncode or not all((folder / _RESULT).exists() for folder in folders):
            said = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing"]
            raise ExportError(f"{name} ends the process, saying {said[-1]}")
        return [_read(folder) for folder in folders]


def _read(folder: Path) -> Ran:
    """What a file gave."""
    values = json.loads((folder / _RESULT).read_text(encoding="utf-8"))
    if values["not loaded"] is not None:
        raise ExportError(values["not loaded"])
    outputs: list[list[Array] | ExportError] = [
        _arrays(folder / f"out{number}.npz") if error is None else ExportError(error)
        for number, error in enumerate(values["errors"])
    ]
    return Ran(outputs, values["milliseconds"])


def _arrays(path: Path) -> list[Array]:
    with np.load(path) as arrays:
        return [arrays[f"arr_{i}"] for i in range(len(arrays.files))]


def main() -> None:
    """Load and run the files named on the command line, each before the folder of its inputs."""
    module, *given = sys.argv[1:]
    runtime = import_module(module)
    for path, folder in zip(given[::2], given[1::2], strict=True):
        values = _ran(runtime, Path(path), Path(folder), timed=path == given[0])
        (Path(folder) / _RESULT).write_text(json.dumps(values), encoding="utf-8")


def _ran(runtime: Any, path: Path, folder: Path, timed: bool) -> dict[str, Any]:
    """What `_read` reads, beside the outputs."""
    values: dict[str, Any] = {"not loaded": None, "errors": [], "milliseconds": None}
    try:
        run = runtime.load(path)
    except Exception as error:
        values["not loaded"] = _said(error)
    else:
        given = sorted(folder.glob("in*.npz"), key=lambda one: int(one.stem[2:]))
        for number, one in enumerate(given):
            inputs = _arrays(one)
            try:
                np.savez(folder / f"out{number}.npz", *run(inputs))
            except Exception as error:
                values["errors"].append(_said(error))
                continue
            values["errors"].append(None)
            if number == 0 and timed:
                values["milliseconds"] = 1e3 * least_seconds(lambda x=inputs: run(x))
    return values


def _said(error: Exception) -> str:
    if isinstance(error, ExportError):
        return str(error)
    return f"{type(error).__name__}: {first(error)}"


def least_seconds(call: Any) -> float:
    """The least time of `ROUNDS` calls, or of those that begin within some seconds."""
    least, end = math.inf, time.perf_counter() + _ENOUGH
    for _ in range(ROUNDS):
        began = time.perf_counter()
        if began > end:
            break
        call()
        least = min(least, time.perf_counter() - began)
    return least


if __name__ == "__main__":
    main()
