"""Runs the trials of a plan in parallel processes. Knows nothing of what a study compares."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from groupnorm.files import write_atomic
from groupnorm.study.runners.launcher import LaunchedTrial, Launcher
from groupnorm.study.store import Record, read_record, run_folder, run_is_done, to_json
from groupnorm.training.config import TrainingConfig


class Progress(Protocol):
    """What the runner reports while it works."""

    def started(self, name: str, config: TrainingConfig) -> None:
        """A trial's process was started."""

    def stepped(self, name: str, step: int, total: int) -> None:
        """A trial has done `step` of `total` steps."""

    def epoch(self, name: str, metrics: dict[str, Any]) -> None:
        """A trial has finished an epoch."""

    def ended(self, name: str, status: str, reason: str | None) -> None:
        """A trial has ended: "finished", "diverged" or "failed", or "partial": it was asked to stop
        after an epoch."""


def run_trials(
    out: Path,
    configs: Mapping[str, TrainingConfig],
    progress: Progress,
    *,
    jobs: int,
    threads: int,
    device: str = "cpu",
    data_root: Path | None = None,
    stop_epoch: int | None = None,
    stop_at_first_failure: bool = False,
) -> list[Record]:
    """Finish every run of `configs` that is not done yet, `jobs` at a time.

    With `stop_epoch` each run stops after that epoch, and stays "partial". With
    `stop_at_first_failure` the others are stopped where they are when a trial fails.

    A trial that fails costs only itself: its folder gets the reason in FAILED, and the next start
    tries again. When this function is left by an exception (Ctrl-C), its processes are stopped;
    what they had finished is kept.

    Returns:
        The records of all runs, in the order of `configs`.
    """
    waiting = prepare(out, configs, progress, stop_epoch)

    def launch(launcher: Launcher, name: str) -> LaunchedTrial:
        folder = run_folder(out, name)
        trial = launcher.launch(folder, device=device, data_root=data_root, stop_epoch=stop_epoch)
        progress.started(name, configs[name])
        return trial

    def ended(name: str, failure: str) -> bool:
        done = finish(out, name, failure, progress, stop_epoch)
        return done or not stop_at_first_failure

    def on_event(name: str, event: dict[str, Any]) -> None:
        _handle(name, event, progress)

    run_processes(waiting, launch, on_event, ended, jobs=jobs, threads=threads)
    return [read_record(out, name) for name in configs]


def run_processes(
    names: Sequence[str],
    launch: Callable[[Launcher, str], LaunchedTrial],
    on_event: Callable[[str, dict[str, Any]], None],
    ended: Callable[[str, str], bool],
    *,
    jobs: int,
    threads: int,
) -> None:
    """Have a process for each of `names`, `jobs` at a time.

    When this function is left by an exception (Ctrl-C), the processes are stopped.

    Args:
        launch: starts the process of a name.
        on_event: called with what a process reports.
        ended: called with a name and why its process may have ended without a result; the answer
            is whether to go on. If not, the others are stopped where they are.
        threads: of each process.
    """
    waiting = list(names)
    events: queue.Queue[tuple[str, dict[str, Any] | None]] = queue.Queue()

    def read(name: str, trial: LaunchedTrial) -> None:
        for event in trial.events():
            events.put((name, event))
        events.put((name, None))

    running: dict[str, LaunchedTrial] = {}
    with Launcher(threads) as launcher:
        while waiting or running:
            while waiting and len(running) < jobs:
                name = waiting.pop(0)
                running[name] = launch(launcher, name)
                threading.Thread(target=read, args=(name, running[name]), daemon=True).start()
            name, event = events.get()
            if event is not None:
                on_event(name, event)
            elif not ended(name, running.pop(name).why_unfinished()):
                break


def available_cores() -> int:
    """The cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def prepare(
    out: Path,
    configs: Mapping[str, TrainingConfig],
    progress: Progress,
    stop_epoch: int | None = None,
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


def finish(
    out: Path, name: str, failure: str | None, progress: Progress, stop_epoch: int | None = None
) -> bool:
    """Report how a trial has ended; one that is not done gets the reason `failure` in FAILED.

    Returns:
        Whether it is done.
    """
    done = run_is_done(read_record(out, name), stop_epoch)
    if not done:
        write_atomic(run_folder(out, name) / "FAILED", to_json({"reason": failure}))
    _report_end(out, name, progress)
    return done


def _report_end(out: Path, name: str, progress: Progress) -> None:
    record = read_record(out, name)
    progress.ended(name, record.status, record.reason)


def _handle(name: str, event: dict[str, Any], progress: Progress) -> None:
    if event["event"] == "step":
        progress.stepped(name, event["step"], event["total"])
    elif event["event"] == "epoch":
        progress.epoch(name, event["metrics"])
