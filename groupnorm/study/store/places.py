"""Which folders may hold a study, and which a run of its own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from groupnorm.study.store.json_files import StoreError, file_above


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


def _check_folder(folder: Path) -> None:
    if (above := file_above(folder)) is not None:
        raise StoreError(f"--out takes a folder, {folder} cannot be one: {above} is a file")
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"--out takes a folder, {folder} is a file")


def _with_parents(folder: Path) -> Iterable[Path]:
    path = folder.resolve()
    return (path, *path.parents)
