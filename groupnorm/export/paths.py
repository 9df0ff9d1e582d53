"""Where the files of an export go, and how they get there: all of them, or none."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from groupnorm.export.errors import ExportError
from groupnorm.export.report import report_path
from groupnorm.export.targets import Target
from groupnorm.files import check_writable


def files_of(path: Path, target: Target) -> list[Path]:
    """The files of a network, the one to open first."""
    return [path, *(path.with_suffix(ending) for ending in target.companions)]


def digest_of(path: Path) -> str:
    """The SHA-256 of a file, or of the names and contents of a folder's files."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    together = hashlib.sha256()
    for one in sorted(path.rglob("*")):
        if one.is_file():
            together.update(f"{one.relative_to(path)} {digest_of(one)}\n".encode())
    return together.hexdigest()


def check_paths(path: Path, target: Target) -> None:
    """Check that files for a runtime can be written.

    Args:
        path: of the one to open.
        target: the runtime.

    Raises:
        ExportError: it has another ending, its folder is not there or takes no files, or something
            else is in the place of a file.
    """
    if path.suffix != target.ending:
        raise ExportError(f"a file for {target.title} ends with {target.ending}, got {path}")
    if not path.parent.is_dir():
        raise ExportError(f"the folder {path.parent} is not there")
    try:
        check_writable(path.parent)
    except OSError as error:
        raise ExportError(f"{path.parent} cannot be written to ({error.strerror})") from None
    main, *companions = files_of(path, target)
    for one in (main, *companions, report_path(path)):
        is_folder = one == main and target.ending == ".mlpackage"
        try:
            there = one.exists()
        except OSError as error:
            raise ExportError(f"{one} cannot be written ({error.strerror})") from None
        if there and one.is_dir() != is_folder:
            kind = "folder" if one.is_dir() else "file"
            raise ExportError(f"{one} is a {kind}, which {target.title} does not write")
    for one in companions:
        if one.exists() and not main.exists():
            raise ExportError(
                f"{one}, where the weights go, is there and belongs to another file; choose "
                "another name"
            )


def put_in_place(made: Path, path: Path, target: Target, aside: Path) -> None:
    """Put the files of a network and its report in their place, or leave what was there.

    What was there is taken away first, beginning with the file to open, which comes last of the
    new ones: if this process is killed in between, no file can be opened that has another's weights
    or report.

    Args:
        made: the file to open, where it was written, its report and companions beside it.
        path: where it goes.
        target: the runtime.
        aside: a folder, not there yet, for what was there.

    Raises:
        ExportError: they cannot be written; what was there is there again.
    """
    new = [*files_of(made, target), report_path(made)]
    final = [*files_of(path, target), report_path(path)]
    aside.mkdir()
    with _only_one(path.parent):
        _replace(new, final, aside)


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Within this context no other process puts files into a folder: not half of each."""
    try:
        import fcntl
    except ImportError:  # not on POSIX
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _replace(new: list[Path], final: list[Path], aside: Path) -> None:
    taken: list[Path] = []
    placed: list[Path] = []
    try:
        for one in final:
            if one.exists():
                os.replace(one, aside / one.name)
                taken.append(one)
        for source, one in reversed(list(zip(new, final, strict=True))):
            os.replace(source, one)
            placed.append(one)
    except BaseException as error:
        for one in placed:
            os.replace(one, aside / f"new {one.name}")
        for one in reversed(taken):
            os.replace(aside / one.name, one)
        if isinstance(error, OSError):
            raise ExportError(f"{final[0]} cannot be written ({error.strerror})") from error
        raise
