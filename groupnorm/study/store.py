"""The store of a study: one folder, readable without any of this package.

::

    <out>/study.json                      what was asked: cells (labels, seed, name of the run)
    <out>/cost.json                       times of training steps, taken in turns after the trials
    <out>/initial.json                    of a search: what was measured before any training
    <out>/runs/<name>/config.json         the complete RunConfig
    <out>/runs/<name>/env.json            versions, sources, machine, threads, parameters, cost
    <out>/runs/<name>/metrics.jsonl       one line an epoch
    <out>/runs/<name>/unreadable.json     image files that could not be decoded, if there are any
    <out>/runs/<name>/checkpoint.pt       last finished epoch, for torch.load; then its digest
    <out>/runs/<name>/DONE                {"status": "finished" | "diverged", "reason": ...}
    <out>/runs/<name>/FAILED              {"reason": ...}: crashed or killed; tried again next time

`study.json` is that of the newest command, whole: its cells are those of the report. Only its
versions stay those that the study began with, for every run has its own in `env.json`. Runs that
the newest command does not ask for stay in their folders and enter nothing.

Every file is written beside its place and renamed, so a reader never sees half of one. Each has one
reader, here (that of the checkpoint is in `groupnorm.training.checkpoint`), which checks what it
reads: a file that is damaged, or holds what this version does not know, is an error that names it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from groupnorm.files import write_atomic
from groupnorm.study import schema
from groupnorm.training.config import RunConfig, digest_of

FORMAT = 1
COST_FILE = "cost.json"
INITIAL_FILE = "initial.json"
UNREADABLE = "unreadable.json"

# What to do about a damaged file besides restoring it.
_REMEDIES = {
    "cost.json": "delete it: the command that made the study times the steps again",
    "initial.json": "delete it: the command that made the study measures it again",
    "study.json": "delete it: the command that made the study writes it again and keeps the runs",
    "config.json": "delete it: the command that trained the run writes it again",
    "env.json": "delete it and DONE beside it: training writes them again from the checkpoint",
    "metrics.jsonl": "delete it and DONE beside it: training writes them again from the checkpoint",
    "DONE": "delete it: the command that trained the run finishes it from its checkpoint",
    "FAILED": "delete it: the same command tries the run again",
}
_LARGEST = 2**64  # of whole numbers: seeds have up to 64 bits


Form = TypeVar("Form", bound=BaseModel)


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
    """`study.json` as a dict; `shows` and `published` are there also for a record without them.

    Raises:
        StoreError: `out` holds no study, or the file is damaged or of another version.
    """
    path = out / "study.json"
    manifest = _read_checked(path, schema.Manifest, versioned=True)
    if manifest is None:
        raise StoreError(
            f"{out} holds no study: {path} is missing. Run 'groupnorm study batch-size --out {out}'"
        )
    manifest = _with_report(manifest)
    wanted = [*schema.LABELS[manifest["shows"]]]
    wanted += [manifest["tuned_over"]] if manifest.get("tuned_over") else []
    tried = (manifest.get("tuning") or {"cells": []})["cells"]
    for cell in [*manifest["cells"], *tried]:
        for label in wanted:
            if label not in cell["labels"]:
                _refuse(path, f"has a cell without the label {label!r}")
    return manifest


def _with_report(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest with what its report shows, and beside which published tables.

    Manifests written before these keys were there came from three studies, "groups" and two others
    that differ in their batch sizes, and stood beside the paper's tables. Nothing else in this
    package goes by a study's name.
    """
    shows, published = manifest.get("shows"), manifest.get("published")
    if shows is None:
        batches = {cell["labels"].get("batch_per_worker") for cell in manifest["cells"]}
        shows = "batch-size" if len(batches) > 1 else "norms"
        shows = "groups" if manifest["study"] == "groups" else shows
    if published is None:
        published = [f"imagenet-{shows}"]  # the ids of the paper's Tables 2, 1 and 3
    return {**manifest, "shows": shows, "published": published}


def read_costs(out: Path) -> dict[str, Any] | None:
    """`cost.json` of a study as a dict; None when nothing was timed.

    Raises:
        StoreError: the file is damaged or of another version.
    """
    path = out / COST_FILE
    costs = _read_checked(path, schema.Costs, versioned=True)
    if costs is not None and costs["reason"] is None and not costs["configurations"]:
        _refuse(path, "has neither times nor a reason why there are none")
    return costs


def read_initial(out: Path) -> dict[str, Any] | None:
    """`initial.json` of a search as a dict; None when there is none.

    Raises:
        StoreError: the file is damaged or of another version.
    """
    return _read_checked(out / INITIAL_FILE, schema.Initial, versioned=True)


def read_cells(manifest: dict[str, Any]) -> list[Cell]:
    """The cells of a manifest, in its order."""
    return [Cell(c["labels"], c["seed"], c["run"]) for c in manifest["cells"]]


def run_folder(out: Path, name: str) -> Path:
    """The folder of the run called `name`."""
    return out / "runs" / name


def read_record(out: Path, name: str) -> Record:
    """`read_run` of a study's run, whose folder is named after its configuration.

    Raises:
        StoreError: a file is damaged, or the configuration is not the one that gave the name.
    """
    folder = run_folder(out, name)
    record = read_run(folder)
    named = re.search("-([0-9a-f]{10})$", name)
    if record.config and named and named[1] not in _digests(record.config):
        _refuse(
            folder / "config.json", "is not what the run's folder is named after: it was changed"
        )
    return record


def read_run(folder: Path) -> Record:
    """Everything a run's folder holds; a run never started has status "missing".

    Raises:
        StoreError: a file is damaged, or a finished run lacks epochs.
    """
    path = folder / "config.json"
    config = _read_object(path)
    if config is not None:
        _check(path, config, RunConfig)
    env = _read_checked(folder / "env.json", schema.Environment) or {}
    metrics = read_metrics(folder)
    done = _read_checked(folder / "DONE", schema.Done)
    status, reason = "missing", None
    if done is not None:
        status, reason = done["status"], done["reason"]
        if status == "finished" and config is not None:
            _check_complete(folder / "metrics.jsonl", config, metrics)
    elif (failed := _read_checked(folder / "FAILED", schema.Failed)) is not None:
        status, reason = "failed", failed["reason"]
    elif metrics:
        status = "partial"
    return Record(folder.name, status, reason, config or {}, env, metrics)


def run_is_done(record: Record, stop_epoch: int | None = None) -> bool:
    """Whether nothing is left to train of a run, or nothing up to `stop_epoch`."""
    if record.status in ("finished", "diverged"):
        return True
    return stop_epoch is not None and len(record.metrics) >= stop_epoch


def read_config(folder: Path) -> RunConfig | None:
    """The configuration in a run's folder; None when there is none.

    Raises:
        StoreError: the file is damaged or of another version.
    """
    path = folder / "config.json"
    value = _read_object(path)
    return None if value is None else _check(path, value, RunConfig)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl`, oldest first; an absent file has none.

    Raises:
        StoreError: the file is damaged, or its epochs do not count from 1.
    """
    path = folder / "metrics.jsonl"
    rows = []
    for number, line in enumerate((_read_text(path) or "").splitlines(), 1):
        row = _parse(path, line, f"line {number} ")
        _check(path, row, schema.Epoch, f"line {number} ")
        if row["epoch"] != number:
            _refuse(path, f"line {number} is of epoch {row['epoch']}")
        rows.append(row)
    return rows


def write_metrics(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Replace `metrics.jsonl` by `rows`, one JSON object a line."""
    lines = [json.dumps(row, allow_nan=False) + "\n" for row in rows]
    write_atomic(folder / "metrics.jsonl", "".join(lines))


def write_unreadable(folder: Path, issues: dict[str, dict[str, str]]) -> None:
    """Replace `unreadable.json` by the files of `issues`, each with what is wrong with it."""
    counted = "every file that could not be decoded in this run, also before it was resumed"
    write_atomic(folder / UNREADABLE, to_json({"counted": counted, **issues}))


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


def is_number(value: Any) -> bool:
    """Whether a value of a record is a finite number."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)


def _check_folder(folder: Path) -> None:
    if (above := _file_above(folder)) is not None:
        raise StoreError(f"--out takes a folder, {folder} cannot be one: {above} is a file")
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"--out takes a folder, {folder} is a file")


def _file_above(path: Path) -> Path | None:
    """The file that stands where a folder above `path` should be; None when there is none."""
    return next((p for p in path.parents if p.exists() and not p.is_dir()), None)


def _with_parents(folder: Path) -> Iterable[Path]:
    path = folder.resolve()
    return (path, *path.parents)


def _digests(config: dict[str, Any]) -> set[str]:
    """The digests that a run of `config` may be named by.

    A version that had fewer fields made it of those, which are all that its config.json holds.
    """
    run = RunConfig(**config)
    return {run.digest(), digest_of({k: v for k, v in run.identity().items() if k in config})}


def _check_complete(path: Path, config: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Check that a finished run has all its epochs."""
    if not path.exists():
        raise StoreError(
            f"{path} is missing, and DONE says finished. Restore it, or delete DONE: training "
            "writes both again from the checkpoint"
        )
    length = "epoch" if config.get("epochs") else "step"
    done = rows[-1].get(length) if rows else 0
    if done != config.get(f"{length}s"):
        _refuse(
            path, f"ends at {length} {done} of {config.get(f'{length}s')}, and DONE says finished"
        )


def _check_format(path: Path, value: dict[str, Any]) -> None:
    if value.get("format") != FORMAT:
        _refuse(path, f"has format {value.get('format')!r}, this version reads {FORMAT}")


def _read_checked(
    path: Path, form: type[BaseModel], *, versioned: bool = False
) -> dict[str, Any] | None:
    """A JSON object that fits `form`; None when the file is absent.

    Args:
        versioned: it has the number of its format, which is checked first.
    """
    value = _read_object(path)
    if value is not None:
        if versioned:
            _check_format(path, value)
        _check(path, value, form)
    return value


def _read_object(path: Path) -> dict[str, Any] | None:
    text = _read_text(path)
    return None if text is None else _parse(path, text)


def _read_text(path: Path) -> str | None:
    """The text of a file; None when it is not there."""
    try:
        return path.read_bytes().decode("utf-8-sig")  # an editor may have put a mark before it
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise StoreError(
            f"{_file_above(path)} is a file and should be a folder; remove or rename it"
        ) from None
    except OSError as error:
        _refuse(path, f"cannot be read ({error.strerror})")
    except UnicodeDecodeError as error:
        _refuse(path, f"is not text in UTF-8 (byte {error.start})")


def _parse(path: Path, text: str, line: str = "") -> dict[str, Any]:
    try:
        value = json.loads(text, parse_constant=_finite, parse_float=_finite, parse_int=_whole)
    except (ValueError, RecursionError) as error:
        _refuse(path, f"{line}is not JSON ({error})" if text.strip() else f"{line}is empty")
    if not isinstance(value, dict):
        _refuse(path, f"{line}should hold a JSON object, it holds {type(value).__name__}")
    return value


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is not a finite number")
    return value


def _whole(text: str) -> int:
    if abs(value := int(text)) >= _LARGEST:
        raise ValueError(f"{text[:20]}... is too large")
    return value


def _check(path: Path, value: dict[str, Any], form: type[Form], line: str = "") -> Form:
    try:
        return form.model_validate(value, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        if first["type"] == "extra_forbidden":
            what = f"has the key {where!r}, which this version does not know"
        elif first["type"] == "missing":
            what = f"lacks {where!r}"
        else:
            found = repr(first["input"])
            found = found if len(found) <= 60 else f"{found[:60]}..."
            what = f"has {where}={found}: {first['msg'].removeprefix('Value error, ')}"
        _refuse(path, line + what)


def _refuse(path: Path, what: str) -> NoReturn:
    raise StoreError(f"{path} {what}. Restore it, or {_REMEDIES[path.name]}") from None
