"""Atomic writing and locking."""

import errno
import os
import signal
import subprocess
import sys
import threading

import pytest

from groupnorm.files import (
    LockedError,
    describe_os_error,
    first_line,
    locked,
    write_atomic,
    write_together,
)


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


TOGETHER = {"a.txt": "one", "b.bin": [b"t", b"wo"], "last.pt": b"three"}
WRITTEN = {"a.txt": b"one", "b.bin": b"two", "last.pt": b"three"}


@pytest.fixture
def old(tmp_path):
    """A folder with earlier files."""
    write_atomic(tmp_path / "old" / "a.txt", "old")
    write_atomic(tmp_path / "old" / "last.pt", "old")
    return tmp_path / "old"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_files_are_written_together(tmp_path, old):
    write_together(tmp_path / "new" / "deep", TOGETHER)
    assert contents(tmp_path / "new" / "deep") == WRITTEN
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["deep"]
    write_atomic(old / "mine.txt", "mine")
    write_together(old, TOGETHER)
    assert contents(old) == {**WRITTEN, "mine.txt": b"mine"}
    assert len(list(old.iterdir())) == 4


@pytest.mark.parametrize(
    ("name", "moves", "left"),
    [
        ("new", 1, None),
        ("new", 4, None),
        ("old", 3, {"a.txt": b"old", "last.pt": b"old"}),
        ("old", 4, {"a.txt": b"old"}),
        ("old", 6, {"a.txt": b"one", "b.bin": b"two"}),
    ],
)
def test_a_kill_leaves_no_whole_looking_part(tmp_path, old, name, moves, left):
    """Killed when it moves a file for the `moves`-th time: three are staged first."""
    code = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from groupnorm.files import write_together\n"
        "moves = []\n"
        "def counted(move):\n"
        "    def moved(*paths):\n"
        "        moves.append(paths)\n"
        f"        if len(moves) == {moves}:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        move(*paths)\n"
        "    return moved\n"
        "os.replace, os.rename = counted(os.replace), counted(os.rename)\n"
        f"write_together(Path({str(tmp_path / name)!r}), {TOGETHER!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    if left is None:
        assert not (tmp_path / name).exists()
    else:
        assert contents(tmp_path / name) == left


def test_files_that_cannot_be_staged_leave_the_folder_as_it_was(tmp_path, old, monkeypatch):
    def refuse(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", refuse)
    for folder in (old, tmp_path / "new"):
        with pytest.raises(OSError, match="disk full"):
            write_together(folder, TOGETHER)
    assert contents(old) == {"a.txt": b"old", "last.pt": b"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert len(list(old.iterdir())) == 2
