"""The installed command, as a user types it, in a process of its own or in this one."""

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

from groupnorm.cli import main


def command():
    """The installed `groupnorm` command beside this Python, or the one on the path."""
    beside = Path(sys.executable).with_name("groupnorm")
    found = str(beside) if beside.exists() else shutil.which("groupnorm")
    assert found, "install the package first: pip install -e '.[test]'"
    return found


def groupnorm(*arguments, cwd=None, check=True):
    done = subprocess.run(
        [command(), *map(str, arguments)], capture_output=True, text=True, cwd=cwd, timeout=600
    )
    if check:
        assert done.returncode == 0, done.stderr + done.stdout
    return done


def killed_when(reached, *arguments):
    """Kill the command and its processes (`kill -9`) once `reached()` is true; what that gave."""
    line = [command(), *map(str, arguments)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, start_new_session=True) as process:
        ends = time.monotonic() + 500
        while not (found := reached()):
            assert process.poll() is None
            assert time.monotonic() < ends
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    return found


def typed(*arguments, encoding="utf-8", cwd=None):
    """The command in this process, on streams of `encoding`: much cheaper than a process."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    line = ["groupnorm", *map(str, arguments)]
    with (
        contextlib.chdir(cwd or Path.cwd()),
        mock.patch.object(sys, "argv", line),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            status = end.code or 0
    said = []
    for stream in (out, err):
        stream.flush()
        said.append(stream.buffer.getvalue().decode(encoding))
    return subprocess.CompletedProcess(line, status, *said)
