"""Folders of files that are made once and kept in the cache, with the digests of all files."""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from groupnorm.data.issues import DataError
from groupnorm.files import locked, write_atomic

SUMS = "SHA256SUMS"
_log = logging.getLogger(__name__)


def make_folder(folder: Path, name: str, write: Callable[[Path], None]) -> None:
    """Make a data set's folder unless it is there, whole. A damaged one is made again.

    One process makes it; others wait for it.

    Args:
        name: of the data set, for messages.
        write: writes the data set into an empty folder, and `write_sums` of it last.

    Raises:
        DataError: the folder cannot be written; and what `write` raises.
    """
    if is_whole(folder):
        return
    try:
        with locked(folder.parent / f".{folder.name}.lock", refusal=None):
            _clear(folder)
            if not is_whole(folder):  # or else another process has made it
                _make_in(folder, name, write)
    except OSError as error:
        raise DataError(
            f"{name} cannot be made in {folder}: {error}; set GROUPNORM_CACHE to a folder that "
            "can be written"
        ) from error


def write_sums(folder: Path) -> None:
    """Write digest and name of every file into SUMS, as sha256sum writes and checks them."""
    write_atomic(folder / SUMS, _sums(folder))


def is_whole(folder: Path) -> bool:
    """Whether the files of the folder are those that were written."""
    try:
        return (folder / SUMS).read_text(encoding="utf-8") == _sums(folder)
    except (OSError, ValueError):
        return False


def _make_in(folder: Path, name: str, write: Callable[[Path], None]) -> None:
    _log.info("making %s in %s", name, folder)
    begun = Path(tempfile.mkdtemp(dir=folder.parent, prefix=_prefix(folder)))
    try:
        write(begun)
        begun.chmod(0o755)
        begun.replace(folder)
    finally:
        shutil.rmtree(begun, ignore_errors=True)


def _clear(folder: Path) -> None:
    """Remove a damaged data set, and what processes that were killed have begun."""
    if folder.exists() and not is_whole(folder):
        _log.warning("%s is damaged and will be made again", folder)
        shutil.rmtree(folder)
    for begun in folder.parent.glob(f"{_prefix(folder)}*"):
        shutil.rmtree(begun, ignore_errors=True)


def _prefix(folder: Path) -> str:
    return f".{folder.name}.begun-"


def _sums(folder: Path) -> str:
    paths = sorted(
        path
        for path in folder.rglob("[!.]*")  # operating systems leave hidden files behind
        if path.is_file() and path.name != SUMS
    )
    return "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n"
        for path in paths
    )
