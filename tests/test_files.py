"""Atomic writing and locking."""

import errno
import os
import signal
import subprocess
import sys
import threading

import pytest

from groupnorm.files import LockedError, describe_os_error, first_line, locked, write_atomic


def test_writes_and_replaces_text_and_bytes(tmp_path):
    path = tmp_path / "new" / "file"
    write_atomic(path, "ä")
    assert path.read_text(encoding="utf-8") == "ä"
    write_atomic(path, b"\0\1")
    assert path.read_bytes() == b"\0\1"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomic(path, "old")

    def refuse(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, "new")
    assert path.read_text() == "old"


def test_what_the_system_refuses_names_the_file_that_was_meant(tmp_path, monkeypatch):
    path = tmp_path / "file"

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space left") as error:
            write_atomic(path, "new")
    assert describe_os_error(error.value) == f"{path}: No space left on device"
    assert list(tmp_path.iterdir()) == []
    path.mkdir()
    for write in (lambda: write_atomic(path, "new"), lambda: locked(path, "").__enter__()):
        with pytest.raises(IsADirectoryError) as error:
            write()
        assert describe_os_error(error.value) == f"{path}: Is a directory"
    assert describe_os_error(OSError("no words")) == "no words"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("text", "line"),
    [("out of memory\nand more", "out of memory"), ("\n below", "below"), ("", "MemoryError"),
     (" \n", "MemoryError")],
)  # fmt: skip
def test_the_first_line_of_an_error(text, line):
    assert first_line(MemoryError(text)) == line
    assert first_line(MemoryError()) == "MemoryError"


def test_a_lock_is_exclusive_and_dies_with_its_process(tmp_path):
    path = tmp_path / "lock"
    code = (
        "import sys, pathlib\n"
        "from groupnorm.files import locked\n"
        "with locked(pathlib.Path(sys.argv[1]), 'busy'):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match="it is busy"), locked(path, "it is busy"):
            pass
        holder.kill()
        holder.wait()
    with locked(path, "still busy"):
        pass


def test_a_process_that_was_forked_does_not_hold_a_lock(tmp_path):
    path = tmp_path / "lock"
    code = (
        "import os, sys, pathlib, time\n"
        "from groupnorm.files import locked\n"
        "with locked(pathlib.Path(sys.argv[1]), 'busy'):\n"
        "    child = os.fork()\n"
        "    if not child: print(os.getpid(), flush=True); time.sleep(60)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        child = int(holder.stdout.readline())
        with pytest.raises(LockedError, match="busy"), locked(path, "busy"):
            pass
        holder.kill()
        holder.wait()
        try:
            with locked(path, "the child holds it"):
                pass
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_lock_without_a_refusal_waits(tmp_path):
    path, order = tmp_path / "lock", []

    def second():
        with locked(path, None):
            order.append("second")

    with locked(path, None):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
