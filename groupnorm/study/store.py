"""The store of a study: one folder, readable without any of this package.

::

    <out>/study.json                      what was asked: cells (labels, seed, name of the run)
    <out>/runs/<name>/config.json         the complete RunConfig
    <out>/runs/<name>/env.json            versions, machine, threads, parameter count
    <out>/runs/<name>/metrics.jsonl       one line an epoch
    <out>/runs/<name>/unreadable.json     image files that could not be decoded, if there are any
    <out>/runs/<name>/checkpoint.pt       last finished epoch (torch, weights_only loadable)
    <out>/runs/<name>/DONE                {"status": "finished" | "diverged", "reason": ...}
    <out>/runs/<name>/FAILED              {"reason": ...}: crashed or killed; tried again next time

Every file is written beside its place and renamed, so a reader never sees half of one.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groupnorm.files import write_atomic

FORMAT = 1
UNREADABLE = "unreadable.json"


class StoreError(RuntimeError):
    """The folder is not a study, or is damaged."""


@dataclass(frozen=True)
class Record:
    """What the store holds of one run.

    `status` is "finished", "diverged", "failed", "partial" (some epochs done) or "missing".
    """

    name: str
    status: str
    reason: str | None
    config: dict[str, Any]
    env: dict[str, Any]
    metrics: list[dict[str, Any]]


@dataclass(frozen=True)
class Cell:
    """One place in a study's table: its labels, its seed and the run that fills it.

    Several cells may share one run (a batch-independent norm under the fixed-step protocol).
    """

    labels: dict[str, Any]
    seed: int
    run: str


def to_json(value: Any) -> str:
    """The one JSON form of the store: indented, keys in the given order, newline at the end."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_manifest(out: Path) -> dict[str, Any]:
    """`study.json` as a dict.

    Raises:
        StoreError: `out` holds no study, or the file cannot be read.
    """
    path = out / "study.json"
    if not path.is_file():
        raise StoreError(
            f"{out} holds no study: {path} is missing. Run 'groupnorm study batch-size --out {out}'"
        )
    manifest = _read_json(path)
    if manifest.get("format") != FORMAT:
        raise StoreError(
            f"{path} has format {manifest.get('format')!r}, this version reads {FORMAT}"
        )
    return manifest


def read_cells(manifest: dict[str, Any]) -> list[Cell]:
    """The cells of a manifest, in its order."""
    return [Cell(c["labels"], c["seed"], c["run"]) for c in manifest["cells"]]


def run_folder(out: Path, name: str) -> Path:
    """The folder of the run called `name`."""
    return out / "runs" / name


def read_record(out: Path, name: str) -> Record:
    """Everything the store holds of one run; a run never started has status "missing"."""
    folder = run_folder(out, name)
    config = _read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    env = _read_json(folder / "env.json") if (folder / "env.json").is_file() else {}
    metrics = read_metrics(folder)
    status, reason = "missing", None
    if (folder / "DONE").is_file():
        done = _read_json(folder / "DONE")
        status, reason = done["status"], done.get("reason")
    elif (folder / "FAILED").is_file():
        status, reason = "failed", _read_json(folder / "FAILED")["reason"]
    elif metrics:
        status = "partial"
    return Record(name, status, reason, config, env, metrics)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl`, oldest first; an absent file has none."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise StoreError(f"{path} line {number} is not JSON: {error}") from None
    return rows


def write_metrics(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Replace `metrics.jsonl` by `rows`, one JSON object a line."""
    lines = [json.dumps(row, allow_nan=False) + "\n" for row in rows]
    write_atomic(folder / "metrics.jsonl", "".join(lines))


def write_unreadable(folder: Path, met: dict[str, dict[str, str]]) -> None:
    """Replace `unreadable.json` by the files of `met`, each with what is wrong with it."""
    counted = "every file that could not be decoded in this run, also before it was resumed"
    write_atomic(folder / UNREADABLE, to_json({"counted": counted, **met}))


def is_number(value: Any) -> bool:
    """Whether a value of a record is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise StoreError(f"{path} should hold a JSON object, it holds {type(value).__name__}")
    return value
