"""Child processes of one fork server, which has imported torch and in which nothing has run.

Cases run in a child, so that one that kills the process is a failure with a name.
"""

import multiprocessing
import os
import threading
import traceback

import pytest

SECONDS = 600
# Imported once, in the server. DistributedDataParallel imports the compiler.
PRELOAD = [
    "tests.child", "tests.processes", "groupnorm.run.classification",
    "groupnorm.run.train", "torch._dynamo", "torch.distributed.tensor", "torch.distributed.fsdp",
]  # fmt: skip
needs_processes = [
    pytest.mark.usefixtures("_fork_server"),
    pytest.mark.xdist_group("processes"),  # one server for all
]


def fork_server():
    """The context whose processes are forked from the server."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


def in_child(work, *arguments):
    """`work(note, *arguments)` in a process of its own.

    `work` calls `note(text)` before each case. When the process dies, the last text is in the
    failure. An exception becomes a failure with its traceback.

    Returns:
        what `work` returns.
    """
    context = fork_server()
    notes_out, notes_in = os.pipe()
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(_Descriptor(notes_in), send, work, arguments))
    process.start()
    os.close(notes_in)
    send.close()
    timer = threading.Timer(SECONDS, process.kill)
    timer.start()
    last = ""
    with os.fdopen(notes_out, encoding="utf-8", errors="replace") as notes:
        for line in notes:
            last = line.strip() or last
    try:
        result, failure = receive.recv()
    except EOFError:
        result, failure = None, None
    process.join()
    timer.cancel()
    assert process.exitcode == 0, f"the process ended with {process.exitcode} in: {last}"
    assert failure is None, f"in: {last}\n{failure}"
    return result


class _Descriptor:
    """A file descriptor on its way into a child process."""

    def __init__(self, number):
        self.number = number

    def __getstate__(self):
        from multiprocessing.reduction import DupFd

        return DupFd(self.number)

    def __setstate__(self, duplicate):
        self.number = duplicate.detach()


def _run(descriptor, send, work, arguments):
    import torch

    torch.set_num_threads(1)

    def note(text):
        os.write(descriptor.number, f"{' '.join(text.split())}\n".encode())

    try:
        answer = work(note, *arguments), None
    except BaseException:
        answer = None, traceback.format_exc()
    os.close(descriptor.number)  # the parent reads the notes to their end first
    send.send(answer)
