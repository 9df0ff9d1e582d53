"""Runs the trials of a plan in parallel processes. Knows nothing of what a study compares."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from groupnorm.files import write_atomic
from groupnorm.study.store import Record, read_record, run_folder, run_is_done, to_json
from groupnorm.training.config import RunConfig


class Progress(Protocol):
    """What the runner reports while it works."""

    def started(self, name: str, config: RunConfig) -> None:
        """A trial's process was started."""

    def stepped(self, name: str, step: int, total: int) -> None:
        """A trial has done `step` of `total` steps."""

    def epoch(self, name: str, metrics: dict[str, Any]) -> None:
        """A trial has finished an epoch."""

    def ended(self, name: str, status: str, reason: str | None) -> None:
        """A trial has ended: "finished", "diverged" or "failed", or "partial": it was asked to stop
        after an epoch."""


@dataclass
class _Trial:
    name: str
    process: subprocess.Popen[str]
    reader: threading.Thread
    failure: str | None = None


def run_trials(
    out: Path,
    configs: dict[str, RunConfig],
    progress: Progress,
    *,
    jobs: int,
    threads: int,
    device: str = "cpu",
    data_root: Path | None = None,
    stop_epoch: int | None = None,
) -> list[Record]:
    """Finish every run of `configs` that is not done yet, `jobs` at a time.

    With `stop_epoch` each run stops after that epoch, and stays "partial".

    A trial that fails costs only itself: its folder gets the reason in FAILED, and the next start
    tries again. When this function is left by an exception (Ctrl-C), its processes are stopped;
    what they had finished is kept.

    Returns:
        The records of all runs, in the order of `configs`.
    """
    waiting = prepare(out, configs, progress, stop_epoch)
    events: queue.Queue[tuple[_Trial, dict[str, Any] | None]] = queue.Queue()
    running: list[_Trial] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                name = waiting.pop(0)
                trial = _start(
                    run_folder(out, name), events, threads, device, data_root, stop_epoch
                )
                running.append(trial)
                progress.started(name, configs[name])
            trial, event = events.get()
            if event is not None:
                _handle(trial, event, progress)
                continue
            running.remove(trial)
            _finish(out, trial, progress, stop_epoch)
    finally:
        for trial in running:
            trial.process.kill()
        for trial in running:
            trial.reader.join()
    return [read_record(out, name) for name in configs]


def available_cores() -> int:
    """The cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def prepare(
    out: Path, configs: dict[str, RunConfig], progress: Progress, stop_epoch: int | None = None
) -> list[str]:
    """The names of the runs that are not done yet, with their folders made ready."""
    waiting = []
    for name, config in configs.items():
        record = read_record(out, name)
        done = run_is_done(record, stop_epoch)
        folder = run_folder(out, name)
        if not (done and record.config):
            write_atomic(folder / "config.json", to_json(config.model_dump()))
        (folder / "FAILED").unlink(missing_ok=True)
        if done:
            _report_end(out, name, progress)
            continue
        waiting.append(name)
    return waiting


def start_worker(
    folder: Path,
    threads: int,
    device: str,
    data_root: Path | None,
    stop_epoch: int | None = None,
) -> subprocess.Popen[str]:
    """Start the process that finishes the run in `folder`.

    It reports its progress in JSON lines on its standard output, ends when its standard input is
    closed, and adds what goes wrong to `log.txt`.
    """
    command = [sys.executable, "-m", "groupnorm.study.runners.worker", str(folder)]
    command += ["--threads", str(threads), "--device", device]
    if data_root is not None:
        command += ["--data-root", str(data_root)]
    if stop_epoch is not None:
        command += ["--stop-epoch", str(stop_epoch)]
    with (folder / "log.txt").open("a", encoding="utf-8") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)},
            start_new_session=True,  # Ctrl-C reaches the study alone, which then stops its trials
        )


def finish(
    out: Path, name: str, failure: str | None, progress: Progress, stop_epoch: int | None = None
) -> None:
    """Report how a trial has ended; one that is not done gets the reason `failure` in FAILED."""
    if not run_is_done(read_record(out, name), stop_epoch):
        write_atomic(run_folder(out, name) / "FAILED", to_json({"reason": failure}))
    _report_end(out, name, progress)


def _report_end(out: Path, name: str, progress: Progress) -> None:
    record = read_record(out, name)
    progress.ended(name, record.status, record.reason)


def exit_reason(code: int) -> str:
    """Why a worker that reported no failure has ended, from its exit status."""
    if code == -signal.SIGKILL:
        return "killed by signal 9 (by hand, or by the system when memory ran out)"
    if code < 0:
        return f"killed by signal {-code}"
    return f"its process ended with exit status {code}; see log.txt in its folder"


def _start(
    folder: Path,
    events: queue.Queue[tuple[_Trial, dict[str, Any] | None]],
    threads: int,
    device: str,
    data_root: Path | None,
    stop_epoch: int | None,
) -> _Trial:
    process = start_worker(folder, threads, device, data_root, stop_epoch)

    def read() -> None:
        with process:  # closes the pipes and waits for the process once its last line was read
            assert process.stdout is not None
            for line in process.stdout:
                with contextlib.suppress(json.JSONDecodeError):  # a line cut by kill -9
                    events.put((trial, json.loads(line)))
        events.put((trial, None))

    trial = _Trial(folder.name, process, threading.Thread(target=read, daemon=True))
    trial.reader.start()
    return trial


def _handle(trial: _Trial, event: dict[str, Any], progress: Progress) -> None:
    if event["event"] == "step":
        progress.stepped(trial.name, event["step"], event["total"])
    elif event["event"] == "epoch":
        progress.epoch(trial.name, event["metrics"])
    elif event["event"] == "failed":
        trial.failure = event["reason"]


def _finish(out: Path, trial: _Trial, progress: Progress, stop_epoch: int | None) -> None:
    trial.reader.join()
    failure = trial.failure or exit_reason(trial.process.returncode)
    finish(out, trial.name, failure, progress, stop_epoch)
