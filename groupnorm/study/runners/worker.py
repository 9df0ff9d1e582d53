"""The processes of trials: `python -m groupnorm.study.runners.worker` starts one for each.

This process, the server, imports everything once and forks a child for each trial. It computes
nothing and asks nothing of a GPU, because neither threads nor CUDA survive a fork. Where forking is
not safe (`--spawn`) it starts a fresh process instead, which imports again.

Its standard input is a socket. A byte on it brings two descriptors: a trial's connection and its
log. On the connection the trial reads its job, a line of JSON, and reports its progress in further
lines; the server adds the last one, the exit status. When the socket closes, because the study has
ended, the server kills its trials; a trial ends when the server does, so none outlives the study.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from groupnorm.files import describe_os_error

PROGRESS_INTERVAL = 0.5  # seconds between two lines about steps
# Imported before the first fork: everything that a trial needs of this package, and the compiler,
# which torch's optimizers import.
PRELOAD = ("groupnorm.study.record", "groupnorm.run.classification", "torch._dynamo")


def main() -> None:
    """Entry point of the process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spawn", action="store_true")
    parser.add_argument("--connection", type=int)
    arguments = parser.parse_args()
    if arguments.connection is not None:
        run_job(socket.socket(fileno=arguments.connection))
        return
    if not arguments.spawn:
        for name in PRELOAD:
            importlib.import_module(name)
        # numpy's threads, of which Python warns at a fork, are stopped by numpy itself before it
        warnings.filterwarnings("ignore", ".*multi-threaded", DeprecationWarning)
        gc.freeze()  # a trial's garbage collector leaves alone, and shares, what is imported
    status = 0
    try:
        connection = serve(socket.socket(fileno=0), spawn=arguments.spawn)
        if connection is not None:
            run_job(connection)
    except Exception:
        traceback.print_exc()
        status = 1
    # Python's own end would take a second of every trial to free what it shares with the server.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def serve(control: socket.socket, *, spawn: bool) -> socket.socket | None:
    """Start a trial for every byte on `control`, until it closes.

    Returns:
        In the process of a forked trial its connection, which the caller goes on with; in the
        server None, at its end.
    """
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # only so that it wakes the loop
    lifeline, held = os.pipe()  # closes in the trials when this process ends, however it does
    trials: dict[int, socket.socket] = {}
    poll = select.poll()
    poll.register(wake, select.POLLIN)
    poll.register(control, select.POLLIN)
    while True:
        ready = [descriptor for descriptor, _ in poll.poll()]
        if wake in ready:
            os.read(wake, 4096)
            _reap(trials)
        if control.fileno() not in ready:
            continue
        message, descriptors, *_ = socket.recv_fds(control, 1, 2)
        if not message:
            break
        connection, log = socket.socket(fileno=descriptors[0]), descriptors[1]
        try:
            pid = _spawn(connection, lifeline, log) if spawn else os.fork()
        except OSError as error:
            os.close(log)
            _tell(connection, event="failed", reason=describe_os_error(error))
            continue
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            control.detach()
            for descriptor, standard in ((lifeline, 0), (log, 1), (log, 2)):
                os.dup2(descriptor, standard)
            for descriptor in (lifeline, held, wake, woken, log):
                os.close(descriptor)
            for other in trials.values():
                other.close()
            return connection
        os.close(log)
        trials[pid] = connection
    for pid in trials:
        os.kill(pid, signal.SIGKILL)
    for pid in trials:
        os.waitpid(pid, 0)
    return None


def run_job(connection: socket.socket) -> None:
    """Do the job that comes on `connection`, and report on it there; errors are raised, too."""
    threading.Thread(target=_die_with_server, daemon=True).start()
    stream = connection.makefile("rw", encoding="utf-8")

    def send(event: str, **fields: Any) -> None:
        stream.write(json.dumps({"event": event, **fields}) + "\n")
        stream.flush()

    job = json.loads(stream.readline())
    try:
        work(job, send)
    except OSError as error:
        send("failed", reason=describe_os_error(error))
        raise
    except Exception as error:
        send("failed", reason=f"{type(error).__name__}: {error}")
        raise


def work(job: dict[str, Any], send: Callable[..., None]) -> None:
    """Finish the run in the job's `folder`, or up to `stop_epoch`; its record is in the folder.

    Or do trials of `conversions` with its network.

    Args:
        job: the arguments of `record_run`, as JSON holds them, without the configuration.
        send: called with "step", "epoch" or "trial" and what there is to say of it.
    """
    if job.get("conversions"):
        _convert(job, send)
        return
    from groupnorm.study.record import record_run
    from groupnorm.study.store import StoreError, read_config

    last_line = 0.0

    def on_step(step: int, total: int) -> None:
        nonlocal last_line
        now = time.monotonic()
        if now - last_line >= PROGRESS_INTERVAL or step == total:
            last_line = now
            send("step", step=step, total=total)

    folder, data_root = Path(job["folder"]), job["data_root"]
    config = read_config(folder)
    if config is None:
        raise StoreError(f"{folder} holds no config.json, which says what to train")
    record_run(
        config,
        folder,
        threads=job["threads"],
        device=job["device"],
        data_root=None if data_root is None else Path(data_root),
        stop_epoch=job["stop_epoch"],
        on_step=on_step,
        on_epoch=lambda metrics: send("epoch", metrics=metrics),
    )


def _convert(job: dict[str, Any], send: Callable[..., None]) -> None:
    from groupnorm.study.conversions.job import run_trials_of
    from groupnorm.study.conversions.trial import Trial

    data_root = job["data_root"]
    run_trials_of(
        Path(job["folder"]),
        [Trial.from_json(values) for values in job["conversions"]],
        threads=job["threads"],
        device=job["device"],
        data_root=None if data_root is None else Path(data_root),
        on_trial=lambda trial, reason: send("trial", trial=trial.name, reason=reason),
    )


def _spawn(connection: socket.socket, lifeline: int, log: int) -> int:
    command = [
        sys.executable,
        "-m",
        "groupnorm.study.runners.worker",
        "--connection",
        str(connection.fileno()),
    ]
    process = subprocess.Popen(
        command, stdin=lifeline, stdout=log, stderr=log, pass_fds=[connection.fileno()]
    )
    process.returncode = 0  # `_reap` waits for it
    return process.pid


def _reap(trials: dict[int, socket.socket]) -> None:
    """Tell of the trials that have ended how they did."""
    for pid in list(trials):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            _tell(trials.pop(pid), event="exit", code=os.waitstatus_to_exitcode(status))


def _tell(connection: socket.socket, **event: Any) -> None:
    """Report the last there is of a trial, on a line of its own: kill -9 may have cut one."""
    with connection, contextlib.suppress(OSError):
        connection.sendall(f"\n{json.dumps(event)}\n".encode())


def _die_with_server() -> None:
    # os.read, not sys.stdin: a thread inside a buffered read makes the interpreter abort at exit
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
