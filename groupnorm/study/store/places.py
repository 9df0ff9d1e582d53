"""Which folders may hold a study or a run of its own, and taking one for oneself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from groupnorm.files import check_folder_name, describe_os_error, locked
from groupnorm.study.store.json_files import StoreError


def check_run_place(folder: Path) -> None:
    """Check that `folder` may hold a run of its own, which belongs to no study.

    Raises:
        StoreError: it is a file, a study's folder or inside one.
    """
    _check_folder(folder)
    for parent in _with_parents(folder):
        here = parent == folder.resolve()
        if (parent / "study.json").exists() and (here or (parent / "runs").is_dir()):
            raise StoreError(
                f"{folder} is {'' if here else 'inside '}the folder of a "
                f"study ({parent / 'study.json'}); choose a folder outside it for a single run"
            )


def check_study_place(out: Path) -> None:
    """Check that `out` may hold a study.

    Raises:
        StoreError: it is a file, a run's folder or inside one.
    """
    _check_folder(out)
    for parent in _with_parents(out):
        if (parent / "config.json").exists() and any(
            (parent / name).exists() for name in ("env.json", "metrics.jsonl", "checkpoint.pt")
        ):
            raise StoreError(
                f"{out} is {'' if parent == out.resolve() else 'inside '}the folder of a run "
                f"({parent / 'config.json'}); choose a folder outside it for a study"
            )


@contextmanager
def locked_folder(folder: Path, refusal: str) -> Iterator[None]:
    """Have a folder, made if absent, for this process alone.

    Raises:
        LockedError: another process has it; the message is `refusal`.
        StoreError: it cannot be made, or no file in it.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / ".lock", refusal))
        except OSError as error:
            raise StoreError(
                f"no file can be written in {folder} ({describe_os_error(error)}); see to it that "
                "one can, or choose another folder with --out"
            ) from error
        yield


def _check_folder(folder: Path) -> None:
    try:
        check_folder_name(str(folder), "--out")
    except ValueError as error:
        raise StoreError(str(error)) from None


def _with_parents(folder: Path) -> Iterable[Path]:
    path = folder.resolve()
    return (path, *path.parents)
