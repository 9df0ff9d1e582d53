"""One trial on a node of a cluster: the same worker process as locally, and its events.

Where the node sees the study's folder (a shared file system), the trial works in it. Elsewhere it
works in a folder of its own on the node, and every file of the record is sent back as soon as it
changes. Nothing here needs Ray but `as_task`.
"""

from __future__ import annotations

import contextlib
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groupnorm.environment import cpu_kernels, software
from groupnorm.files import LockedError, locked, write_atomic
from groupnorm.study.runners.launcher import Launcher
from groupnorm.study.store import UNREADABLE, read_run, run_folder, run_is_done

# What a trial leaves besides its configuration and DONE, in the order in which it is written.
STATE_FILES = ("env.json", "checkpoint.pt", UNREADABLE, "metrics.jsonl")
# What a run that others start from is asked for.
INITIAL_FILES = ("config.json", "checkpoint.pt", "metrics.jsonl", "DONE")
TOKEN_FILE = ".cluster"
LOCK_PATIENCE = 60.0  # seconds a trial waits for the one that a lost node may still be running
LOG_TAIL = 20_000  # characters of a trial's log that are sent back

Event = dict[str, Any]


class InstallationError(RuntimeError):
    """A node has other software than the study that sends it a trial."""


@dataclass(frozen=True)
class Job:
    """What a node needs to run, or to continue, one trial.

    `files` are the state files so far, `initial` those of the run that it starts from, called
    `initial_name`; `token` is what TOKEN_FILE in the folder `out` says, by
    which a node knows that it sees the same folder.
    """

    name: str
    attempt: int
    config: str
    files: dict[str, bytes]
    initial_name: str | None
    initial: dict[str, bytes]
    out: Path
    token: str
    threads: int
    device: str
    data_root: Path | None
    stop_epoch: int | None
    installation: dict[str, str]


class EventQueue:
    """The events of all trials, in order, until the study takes them. An actor on its node."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def put(self, event: Event) -> None:
        """Add one event. Its files take the place of older ones that still wait."""
        for older in self.events:
            if (older["name"], older["attempt"]) == (event["name"], event["attempt"]):
                for file in event["files"]:
                    older["files"].pop(file, None)
        self.events.append(event)

    def take(self) -> list[Event]:
        """All events that wait."""
        taken, self.events = self.events, []
        return taken

    def settle(self) -> None:
        """Return once every call before this one is done."""


def as_task(job: Job, queue: Any) -> str | None:
    """`run_attempt` as a Ray task; all its events are in the queue when it ends."""
    import ray

    # Waiting for the queue would free this task's CPUs for another trial meanwhile, so only the
    # end waits. An actor takes one caller's calls in their order, the last one after all others.
    failure = run_attempt(job, queue.put.remote)
    ray.get(queue.settle.remote())
    return failure


def run_attempt(job: Job, on_event: Callable[[Event], None]) -> str | None:
    """Run the trial of `job` to its end, in a process of its own.

    Args:
        on_event: called with {"name", "attempt", "event": "started" | "step" | "epoch" | "ended",
            "files", ...}; `files` are the bytes of the state files that changed since the last
            event, and of DONE at the end. It is empty where the study's folder itself is used.

    Returns:
        None if the trial has its result, else why it has none.

    Raises:
        InstallationError: this node has other software than `job.installation` says.
    """
    here = installation()
    if here != job.installation:
        raise InstallationError(
            f"node {platform.node()} has {_words(here)}; the study runs with "
            f"{_words(job.installation)}. Install the same on every node"
        )
    shared = sees_same_folder(job)
    with _folder(job, shared) as folder:
        signatures = _signatures(folder)

        def send(event: str, names: tuple[str, ...] = STATE_FILES, **fields: Any) -> None:
            files = {} if shared else changed_files(folder, names, signatures)
            on_event(
                {
                    "name": job.name,
                    "attempt": job.attempt,
                    "event": event,
                    "files": files,
                    **fields,
                }
            )

        send("started", node=platform.node(), shared=shared)
        with Launcher(job.threads) as launcher:
            trial = launcher.launch(
                folder, device=job.device, data_root=job.data_root, stop_epoch=job.stop_epoch
            )
            for event in trial.events():
                send(**event)
        log = "" if shared else _log_tail(folder)
        send("ended", (*STATE_FILES, "DONE"), log=log)
        if run_is_done(read_run(folder), job.stop_epoch):
            return None
        # a file that is named is that of the study, not the copy on this node
        return trial.why_unfinished().replace(str(folder), str(run_folder(job.out, job.name)))


def sees_same_folder(job: Job) -> bool:
    """Whether this node sees, and may write, the folder that the study writes to."""
    try:
        same = (job.out / TOKEN_FILE).read_text(encoding="utf-8") == job.token
    except (OSError, UnicodeDecodeError):
        return False
    return same and os.access(run_folder(job.out, job.name), os.W_OK)


def state_files(folder: Path, names: tuple[str, ...] = STATE_FILES) -> dict[str, bytes]:
    """The files of `names` that are in `folder`, by name."""
    return {n: (folder / n).read_bytes() for n in names if (folder / n).is_file()}


def changed_files(
    folder: Path, names: tuple[str, ...], signatures: dict[str, tuple[int, int]]
) -> dict[str, bytes]:
    """The files of `names` that were replaced since `signatures`, which is brought up to date.

    Files of a record are replaced, never written into, so what is read is one whole state.
    """
    changed = {}
    for name in names:
        with contextlib.suppress(FileNotFoundError), (folder / name).open("rb") as file:
            signature = _signature(file.fileno())
            if signatures.get(name) != signature:
                changed[name] = file.read()
                signatures[name] = signature
    return changed


def installation() -> dict[str, str]:
    """The software whose difference would make another result.

    Package and sources, the compiled kernels and which of them this processor runs, torch, Python.
    Nothing is asked of a GPU: the study's own process may have none to spare.
    """
    env = software()
    return {
        "groupnorm": f"{env['groupnorm']} (sources {env['sources']})",
        "kernels": f"{env['kernels'] or 'not compiled'} ({cpu_kernels()})",
        "torch": env["torch"],
        "python": env["python"],
    }


@contextlib.contextmanager
def _folder(job: Job, shared: bool) -> Iterator[Path]:
    if shared:
        folder = run_folder(job.out, job.name)
        _wait_until_free(folder / ".lock")
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="groupnorm-trial-") as scratch:
        folder = Path(scratch) / job.name
        write_atomic(folder / "config.json", job.config)
        for name, content in job.files.items():
            write_atomic(folder / name, content)
        for name, content in job.initial.items():
            write_atomic(Path(scratch) / str(job.initial_name) / name, content)
        yield folder


def _log_tail(folder: Path) -> str:
    return (folder / "log.txt").read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:]


def _wait_until_free(lock: Path) -> None:
    end = time.monotonic() + LOCK_PATIENCE
    while time.monotonic() < end:  # afterwards the worker itself says who holds the folder
        with contextlib.suppress(LockedError), locked(lock, "in use"):
            return
        time.sleep(0.5)


def _signatures(folder: Path) -> dict[str, tuple[int, int]]:
    names = [name for name in STATE_FILES if (folder / name).is_file()]
    return {name: _signature(folder / name) for name in names}


def _signature(file: Path | int) -> tuple[int, int]:
    status = os.stat(file)
    return status.st_ino, status.st_mtime_ns


def _words(software: dict[str, str]) -> str:
    return ", ".join(f"{name} {which}" for name, which in software.items())
