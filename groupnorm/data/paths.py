"""Where files are looked for, and how they are read safely."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from groupnorm.data.issues import DataError


def cache_folder() -> Path:
    """GROUPNORM_CACHE, else XDG_CACHE_HOME/groupnorm, else ~/.cache/groupnorm. It may not exist."""
    own = os.environ.get("GROUPNORM_CACHE")
    if own:
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "groupnorm"


def search_folders(root: Path | None, known: Sequence[Path] = ()) -> list[Path]:
    """The folders to look in, in order.

    The caller's `root`, the environment variable GROUPNORM_DATA, the `known` places, `./data`, and
    the cache folder.
    """
    named = os.environ.get("GROUPNORM_DATA")
    first = ([] if root is None else [Path(root)]) + ([Path(named)] if named else [])
    return [*first, *known, Path("data"), cache_folder()]


def first_match(
    what: str,
    folders: Sequence[Path],
    match: Callable[[Path], Path | None],
    how_to_get: str,
    hint: Callable[[Path], str] = lambda folder: "",
) -> Path:
    """The first place that `match` accepts.

    Args:
        what: the files' names, for the message.
        folders: where to look, in order.
        match: the place of the data below a folder, or None.
        how_to_get: the end of the message.
        hint: what there is below a folder instead, and what to do with it; "" for nothing.

    Raises:
        DataError: no folder matches; the message lists all of them, with the hints.
    """
    for folder in folders:
        path = match(folder)
        if path is not None:
            return path
    listed = "".join(f"\n  {folder.absolute()}" for folder in folders)
    hints = "".join(f"{text}\n" for folder in folders if (text := hint(folder)))
    raise DataError(f"{what} not found; looked in{listed}\n{hints}{how_to_get}")


def read_checked(path: Path, sha256: str, how_to_get: str) -> bytes:
    """The bytes of a file whose checksum is known.

    Raises:
        DataError: the file is missing, unreadable, or another one than expected.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; {how_to_get}") from error
    check_digest(str(path), data, sha256, "sha256", how_to_get)
    return data


def check_digest(name: str, data: bytes, expected: str, algorithm: str, how_to_get: str) -> None:
    """Raise DataError unless the digest of `data` is the expected one."""
    found = hashlib.new(algorithm, data, usedforsecurity=False).hexdigest()
    if found != expected:
        raise DataError(
            f"{name} is damaged or another file: expected {algorithm} {expected}, "
            f"got {found} ({len(data):,} bytes); {how_to_get}"
        )
