"""Starting trials: the study's side of `groupnorm.study.runners.worker`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TextIO

COMMAND = (sys.executable, "-m", "groupnorm.study.runners.worker")
# Elsewhere the system's libraries may not survive a fork.
FORKS = sys.platform == "linux"


class Launcher:
    """Starts trials, each in a process of its own. As a context manager it ends with all of them.

    They are forked from one process that has imported everything, so that a trial does not spend
    its first seconds on that. It is started with the first trial, and again when it was lost.

    Args:
        threads: of each trial.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.server: subprocess.Popen[bytes] | None = None
        self.control: socket.socket | None = None

    def __enter__(self) -> Launcher:
        return self

    def __exit__(self, *_: object) -> None:
        """Kill the trials that are still at work, and wait for their end."""
        if self.control is not None:
            self.control.close()
        if self.server is not None:
            self.server.wait()

    def launch(
        self,
        folder: Path,
        *,
        device: str,
        data_root: Path | None,
        stop_epoch: int | None = None,
        conversions: Sequence[dict[str, Any]] = (),
    ) -> LaunchedTrial:
        """Start the process that finishes the run in `folder`, or trains it up to `stop_epoch`.

        What it prints, and what goes wrong in it, is added to `log.txt`.

        Args:
            conversions: trials of conversions (`Trial.as_json`) to do with the run's network, in
                place of training it.
        """
        ours, theirs = socket.socketpair()
        job = {
            "folder": str(folder),
            "threads": self.threads,
            "device": device,
            "data_root": None if data_root is None else str(data_root),
            "stop_epoch": stop_epoch,
            "conversions": list(conversions),
        }
        with (folder / "log.txt").open("ab") as log, ours, theirs:
            server, control = self._server(log)
            # where the server is lost meanwhile, the trial ends before it begins
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                socket.send_fds(control, [b"."], [theirs.fileno(), log.fileno()])
                ours.sendall(f"{json.dumps(job)}\n".encode())
            stream = ours.makefile("r", encoding="utf-8", errors="replace")  # keeps `ours` open
        return LaunchedTrial(stream, server)

    def _server(self, log: BinaryIO) -> tuple[subprocess.Popen[bytes], socket.socket]:
        if self.server is not None and self.control is not None:
            if self.server.poll() is None:
                return self.server, self.control
            self.control.close()
        self.control, theirs = socket.socketpair()
        count = str(self.threads)
        with theirs:
            self.server = subprocess.Popen(
                [*COMMAND, *([] if FORKS else ["--spawn"])],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count},
                start_new_session=True,  # Ctrl-C reaches the study alone, which then stops these
            )
        return self.server, self.control


class LaunchedTrial:
    """A trial at work."""

    def __init__(self, stream: TextIO, server: subprocess.Popen[bytes]) -> None:
        self.stream = stream
        self.server = server
        self.code: int | None = None
        self.failure: str | None = None

    def events(self) -> Iterator[dict[str, Any]]:
        """What the trial reports, until it has ended: {"event": "step", "epoch" or "trial", ...}.

        A process that the trial has left behind, and that holds its connection, is not waited for.
        """
        with self.stream, contextlib.suppress(ConnectionResetError):
            for line in self.stream:
                with contextlib.suppress(json.JSONDecodeError):  # a line cut by kill -9
                    event = json.loads(line)
                    if event["event"] == "exit":
                        self.code = event["code"]
                        return
                    if event["event"] == "failed":
                        self.failure = event["reason"]
                    else:
                        yield event

    def why_unfinished(self) -> str:
        """Why the trial, whose events have ended, has no result."""
        if self.failure is not None:
            return self.failure
        if self.code is None:
            return f"the process that starts the trials {_describe_end(self.server.wait())}"
        return f"its process {_describe_end(self.code)}"


def _describe_end(code: int) -> str:
    if code == -signal.SIGKILL:
        return "was killed by signal 9 (by hand, or by the system when memory ran out)"
    if code < 0:
        return f"was killed by signal {-code}"
    return f"ended with exit status {code}; see log.txt in its folder"
