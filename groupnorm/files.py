"""Writing files so that a reader, or a restart after `kill -9`, never meets half of one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


class LockedError(RuntimeError):
    """Another process holds the lock."""


def write_atomic(path: Path, data: bytes | str | Sequence[bytes | memoryview]) -> None:
    """Write `data` to `path` so that the file is the old one or the whole new one, never a part.

    Several parts are written one after another, without a copy of them in memory. Text is written
    as UTF-8. What UTF-8 has no bytes for, as in the names of files that are not UTF-8, is escaped
    as \\udcff, which JSON reads back.

    Raises:
        OSError: it cannot be written; `filename` is `path`.
    """
    payload = data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data
    parts = [payload] if isinstance(payload, bytes) else payload
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write_together(
    folder: Path, files: Mapping[str, bytes | str | Sequence[bytes | memoryview]]
) -> None:
    """Write files into a folder: all of them or none where there is no such folder yet.

    In a folder that is there each is the old one or the whole new one. The last of `files` is then
    removed at first, and written when the others are there.

    Raises:
        OSError: they cannot be written.
    """
    there = folder.is_dir()
    if not there:
        folder.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(dir=folder if there else folder.parent, prefix=".writing-"))
    try:
        for name, data in files.items():
            write_atomic(staged / name, data)
        if there:
            (folder / list(files)[-1]).unlink(missing_ok=True)
            for name in files:
                os.replace(staged / name, folder / name)
        else:
            os.chmod(staged, 0o755)
            os.rename(staged, folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def check_writable(folder: Path) -> None:
    """Raise OSError unless files can be written into a folder that is there.

    Permissions do not tell all: some places take no files from anybody.
    """
    os.rmdir(tempfile.mkdtemp(dir=folder, prefix=".writing-"))


@contextmanager
def locked(path: Path, refusal: str | None) -> Iterator[None]:
    """Hold an exclusive lock on the file `path` (made if absent); freed when the process dies.

    Processes that are forked meanwhile do not hold it: those that decode files outlive a process
    that is killed by some seconds.

    Args:
        refusal: what to say when another process holds it; None waits for that process.

    Raises:
        LockedError: another process holds it; the message is `refusal`.
    """
    import fcntl  # POSIX only; imported here so that reading a store works everywhere

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if refusal is None else fcntl.LOCK_NB))
        except BlockingIOError:
            raise LockedError(refusal) from None
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        _locks.add(file.fileno())
        try:
            yield
        finally:
            _locks.discard(file.fileno())


def _let_go() -> None:
    """Put nothing in the place of the open locks, which a forked process would hold, too."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for lock in _locks:
        os.dup2(nothing, lock, inheritable=False)
    os.close(nothing)
    _locks.clear()


_locks: set[int] = set()
"""Descriptors of the files that `locked` holds."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def file_above(path: Path) -> Path | None:
    """The file that stands where a folder above `path` should be; None when there is none."""
    return next((p for p in path.parents if p.exists() and not p.is_dir()), None)


def check_folder_name(text: str, option: str) -> None:
    """Check that `text` can name a folder, which need not exist.

    Args:
        option: what the user gave it with, for the message.

    Raises:
        ValueError: it is empty, a file, below a file, or nothing that the system takes.
    """
    if not text.strip():
        raise ValueError(f"{option} is empty; name a folder, or write . for the current one")
    try:
        if Path(text).exists() and not Path(text).is_dir():
            raise ValueError(f"{option} takes a folder, {text} is a file; name another")
        Path(text).stat()
    except FileNotFoundError:
        return
    except NotADirectoryError:
        why = f"{file_above(Path(text))} is a file"
    except OSError as error:
        why = error.strerror or str(error)
    else:
        return
    raise ValueError(f"{option} takes a folder, {text} cannot be one: {why}; name another")


def describe_os_error(error: OSError) -> str:
    """An error of the operating system in words: the file, then what is wrong with it."""
    what = error.strerror or str(error) or type(error).__name__
    return what if error.filename is None else f"{error.filename}: {what}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
