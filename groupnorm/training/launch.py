"""The processes that torchrun starts: joining them, reporting once, losing one."""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from groupnorm.files import first_line
from groupnorm.training.distributed import ALONE, Processes

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

SILENT_SECONDS = 180
"""A process that keeps the others waiting for so long is lost, too. One that dies is missed at
once; this is for one that hangs, or a machine that is cut off."""


class ProcessLostError(RuntimeError):
    """Another process of the training has died, or all were asked to end."""


@dataclass(frozen=True)
class Launch:
    """What the environment says of this process; alone when nothing was launched.

    Attributes:
        processes: its place among those that train together.
        local: its place among those of this machine.
        store: where the processes meet; None for one alone.
        reports: another connection to it, for one may be waiting for an answer.
    """

    processes: Processes = ALONE
    local: int = 0
    store: Store | None = None
    reports: Store | None = None
    _report_lock: threading.Lock = field(default_factory=threading.Lock)

    def log_once(self, report: Callable[[], None]) -> None:
        """Call `report` unless a process of the launch has done so before.

        When it returns in this process, the report has been made.
        """
        with self._report_lock:
            if self.reports is None or _first_to_report(self.reports):
                report()

    def end(self, status: int) -> None:
        """End this process where it stands if it is one of several; do nothing in one alone.

        Python's and torch's own end is left out: it takes down connections that threads of gloo
        are still using, here and in the other processes, and may then abort with signal 6.

        Args:
            status: the exit status, unless another process has ended so before (`common_status`).
        """
        if self.store is None:
            return
        status = self.common_status(status)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    def common_status(self, status: int) -> int:
        """The exit status of all processes: the `status` of the first one that asks.

        The end of one ends the others, by SIGTERM or a lost connection; they end for its reason.
        """
        if self.reports is None:
            return status
        try:
            return int(self.reports.compare_set("groupnorm/status", "", str(status)))
        except RuntimeError:  # the store died with its process
            return status

    def device(self, device: str) -> str:
        """This process's device of the kind `device`: on CUDA a GPU of its own.

        Raises:
            ValueError: one GPU is named for several processes.
            RuntimeError: fewer GPUs than processes on this machine.
        """
        if self.processes.count > 1 and device.startswith("cuda:"):
            raise ValueError(
                f"device {device!r} is one GPU for {self.processes.count} processes; with cuda "
                "each gets its own"
            )
        if device != "cuda" or self.processes.count == 1:
            return device
        found = torch.cuda.device_count()
        if self.local >= found:
            raise RuntimeError(
                f"process {self.local} of this machine needs a GPU of its own, torch finds "
                f"{found}; start as many processes as there are GPUs (torchrun --nproc-per-node)"
            )
        return f"cuda:{self.local}"


def find_launch() -> Launch:
    """What torchrun's environment variables describe (WORLD_SIZE, RANK, LOCAL_RANK, MASTER_*).

    Raises:
        ValueError: some of them are missing, are not numbers or do not fit.
        RuntimeError: nothing answers where the processes should meet.
    """
    count = _number("WORLD_SIZE", 1)
    if count == 1:
        return Launch()
    processes = Processes(_number("RANK"), count)
    if processes.rank >= count:
        raise ValueError(
            f"RANK is {processes.rank}, but WORLD_SIZE says that {count} processes train together, "
            f"0 to {count - 1}; start them with torchrun"
        )
    seconds = datetime.timedelta(seconds=SILENT_SECONDS)
    try:
        store, _, _ = next(rendezvous("env://", processes.rank, count, timeout=seconds))
    except dist.DistError as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise RuntimeError(
            f"the processes cannot meet at {where}, which MASTER_ADDR and MASTER_PORT name "
            f"({first_line(error)}); torchrun sets both"
        ) from error
    return Launch(processes, _number("LOCAL_RANK", 0), store, store.clone())


@contextlib.contextmanager
def joined(launch: Launch, device: str, describe_checkpoint: Callable[[], str]) -> Iterator[None]:
    """Within this context the launch's processes are torch.distributed's default group.

    It is gloo on the CPU and nccl on "cuda:...".

    Args:
        describe_checkpoint: says, after a loss, what is left of the work.

    Raises:
        ProcessLostError: an operation with the others failed because one has died, is silent, or
            never came.
    """
    if launch.store is None:
        yield
        return
    try:
        if device.startswith("cuda"):
            torch.cuda.set_device(device)
        dist.init_process_group(
            "nccl" if device.startswith("cuda") else "gloo",
            store=launch.store,
            rank=launch.processes.rank,
            world_size=launch.processes.count,
            timeout=datetime.timedelta(seconds=SILENT_SECONDS),
        )
        launch.processes.barrier()  # none may end while another is still connecting
        yield
    except RuntimeError as error:
        if not _is_of_a_lost_process(error):
            raise
        raise ProcessLostError(
            f"a process of the training was lost ({first_line(error)}); {describe_checkpoint()}"
        ) from error
    dist.destroy_process_group()


@contextlib.contextmanager
def exit_on_signal(launch: Launch, on_exit: Callable[[str], None]) -> Iterator[None]:
    """Within this context, SIGTERM and SIGINT end a process of several with `on_exit`.

    torchrun sends SIGTERM to what is left when a process is lost. A thread listens, because the
    main thread may be inside an operation that waits for the lost process and lets no Python run.
    The exit status is 1, or that of a process that has ended before (`Launch.common_status`).

    Args:
        on_exit: called with the reason, from that thread.
    """
    if launch.store is None:
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def listen() -> None:
        for number in iter(lambda: reader.recv(1), b""):
            if number[0] not in numbers:  # a process that decodes images has ended
                continue
            name = signal.Signals(number[0]).name
            on_exit(f"a process of the training was lost, or all were asked to end ({name} came)")
            os._exit(launch.common_status(1))

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda *_: None) for number in numbers]
    wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
        writer.close()
        listener.join()
        reader.close()


def _number(name: str, default: int | None = None) -> int:
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isdecimal() or (name == "WORLD_SIZE" and int(text) < 1):
        raise ValueError(
            f"WORLD_SIZE says that {os.environ['WORLD_SIZE']} processes train together, but "
            f"{name} is {text!r}; start them with torchrun"
            if name != "WORLD_SIZE"
            else f"WORLD_SIZE must be a number of processes, got {text!r}; torchrun sets it"
        )
    return int(text)


def _first_to_report(reports: Store) -> bool:
    """True in one process only; where the store died with its process, in every one."""
    try:
        return bool(reports.add("groupnorm/spoken", 1) == 1)
    except RuntimeError:
        return True


def _is_of_a_lost_process(error: RuntimeError) -> bool:
    """Gloo's errors are plain RuntimeErrors, with the place in its source at their beginning."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)
