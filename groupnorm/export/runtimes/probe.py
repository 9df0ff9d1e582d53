"""A first run of a file in a process of its own: a runtime that crashes takes that one with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from groupnorm.export.errors import ExportError

_SECONDS = 600


def check_survives(
    runtime: Any, files: Sequence[tuple[Path, Sequence[np.ndarray[Any, Any]]]]
) -> None:
    """Load and run files in another process.

    What is merely refused there is left for the caller to meet.

    Args:
        runtime: module of `groupnorm.export.runtimes`.
        files: each, and inputs to run it on.

    Raises:
        ExportError: the runtime ended the process, or took more than ten minutes.
    """
    name = runtime.__name__.rpartition(".")[2]
    command = [sys.executable, "-m", __name__, runtime.__name__]
    with tempfile.TemporaryDirectory() as folder:
        for number, (path, inputs) in enumerate(files):
            given = Path(folder) / f"{number}.npz"
            np.savez(given, *inputs)
            command += [str(path), str(given)]
        try:
            done = subprocess.run(
                command, capture_output=True, timeout=_SECONDS,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise ExportError(f"{name} did not finish in {_SECONDS} s") from None
    if done.returncode < 0:
        ended = signal.Signals(-done.returncode).name
        raise ExportError(
            f"{name} ends the process ({ended}) when it loads or runs what was written"
        )


def main() -> None:
    """Load and run the files named on the command line, each behind its inputs."""
    module, *rest = sys.argv[1:]
    runtime = import_module(module)
    for path, given in zip(rest[::2], rest[1::2], strict=True):
        with np.load(given) as arrays:
            inputs = [arrays[f"arr_{i}"] for i in range(len(arrays.files))]
        runtime.load(Path(path))(inputs)


if __name__ == "__main__":
    main()
