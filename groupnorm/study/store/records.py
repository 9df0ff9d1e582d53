"""What the files of a study's folder hold, as values, and how a run's are written."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groupnorm.files import write_atomic
from groupnorm.run.tasks import config_class
from groupnorm.study import schema
from groupnorm.study.store.json_files import (
    StoreError,
    check,
    parse,
    read_checked,
    read_object,
    refuse,
    text_of,
    to_json,
)
from groupnorm.training.config import TrainingConfig, digest_of

COST_FILE = "cost.json"
INITIAL_FILE = "initial.json"
SAMPLES_FILE = "samples/samples.json"
UNREADABLE = "unreadable.json"


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


def read_manifest(out: Path) -> dict[str, Any]:
    """`study.json` as a dict; `shows` and `published` are there also for a record without them.

    Raises:
        StoreError: `out` holds no study, or the file is damaged or of another version.
    """
    path = out / "study.json"
    manifest = read_checked(path, schema.Manifest, versioned=True)
    if manifest is None:
        missing = f"{path} is missing" if out.is_dir() else "there is no such folder"
        raise StoreError(
            f"{out} holds no study: {missing}. Name the folder that groupnorm study wrote to (its "
            f"--out), or make a study there: groupnorm study batch-size --out {out}"
        )
    manifest = _with_report(manifest)
    wanted = [*schema.LABELS[manifest["shows"]]]
    wanted += [manifest["tuned_over"]] if manifest.get("tuned_over") else []
    tried = (manifest.get("tuning") or {"cells": []})["cells"]
    for cell in [*manifest["cells"], *tried]:
        for label in wanted:
            if label not in cell["labels"]:
                refuse(path, f"has a cell without the label {label!r}")
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
    costs = read_checked(path, schema.Costs, versioned=True)
    if costs is not None and costs["reason"] is None and not costs["configurations"]:
        refuse(path, "has neither times nor a reason why there are none")
    return costs


def read_initial(out: Path) -> dict[str, Any] | None:
    """`initial.json` of a search as a dict; None when there is none.

    Raises:
        StoreError: the file is damaged or of another version.
    """
    return read_checked(out / INITIAL_FILE, schema.Initial, versioned=True)


def read_samples(out: Path) -> dict[str, Any] | None:
    """`samples/samples.json` of a study of detectors or of clips as a dict; None without one.

    Raises:
        StoreError: the file is damaged or of another version.
    """
    path = out / SAMPLES_FILE
    of_clips = (read_object(path) or {}).get("content") == "clips"
    form = schema.ClipSamples if of_clips else schema.Samples
    samples = read_checked(path, form, versioned=True)
    if samples is None:
        return None
    for name, predicted in samples["runs"].items():
        if len(predicted["objects"]) != len(samples["images"]):
            refuse(path, f"has another number of images for {name} than in all")
    if samples["reason"] is None and not samples["runs"]:
        refuse(path, "has neither predictions nor a reason why there are none")
    return samples


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
        refuse(
            folder / "config.json", "is not what the run's folder is named after: it was changed"
        )
    return record


def read_starts(out: Path, records: Mapping[str, Record]) -> dict[str, Record]:
    """The runs that those of a study start from (`TrainingConfig.init`), by name.

    Raises:
        StoreError: a file of one is damaged.
    """
    named = (record.config.get("init") for record in records.values())
    return {name: read_record(out, name) for name in dict.fromkeys(named) if name}


def read_run(folder: Path) -> Record:
    """Everything a run's folder holds; a run never started has status "missing".

    Raises:
        StoreError: a file is damaged, or a finished run lacks epochs.
    """
    path = folder / "config.json"
    config = read_object(path)
    if config is not None:
        _check_config(path, config)
    env = read_checked(folder / "env.json", schema.Environment) or {}
    metrics = read_metrics(folder)
    done = read_checked(folder / "DONE", schema.Done)
    status, reason = "missing", None
    if done is not None:
        status, reason = done["status"], done["reason"]
        if status == "finished" and config is not None:
            _check_complete(folder / "metrics.jsonl", config, metrics)
    elif (failed := read_checked(folder / "FAILED", schema.Failed)) is not None:
        status, reason = "failed", failed["reason"]
    elif metrics:
        status = "partial"
    return Record(folder.name, status, reason, config or {}, env, metrics)


def run_is_done(record: Record, stop_epoch: int | None = None) -> bool:
    """Whether nothing is left to train of a run, or nothing up to `stop_epoch`."""
    if record.status in ("finished", "diverged"):
        return True
    return stop_epoch is not None and len(record.metrics) >= stop_epoch


def damage(record: Record) -> str | None:
    """Why a failed run fails again as often as it is tried: a damaged file, and what to do.

    None where another try may succeed.
    """
    kind, _, text = (record.reason or "").partition(": ")
    lasting = record.status == "failed" and kind in ("CheckpointError", "StoreError")
    return text if lasting else None


def read_config(folder: Path) -> TrainingConfig | None:
    """The configuration in a run's folder; None when there is none.

    Raises:
        StoreError: the file is damaged or of another version.
    """
    path = folder / "config.json"
    value = read_object(path)
    return None if value is None else _check_config(path, value)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl`, oldest first; an absent file has none.

    Raises:
        StoreError: the file is damaged, or its epochs do not count from 1.
    """
    path = folder / "metrics.jsonl"
    rows = []
    for number, line in enumerate((text_of(path) or "").splitlines(), 1):
        row = parse(path, line, f"line {number} ")
        check(path, row, schema.Epoch, f"line {number} ")
        if row["epoch"] != number:
            refuse(path, f"line {number} is of epoch {row['epoch']}")
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


def write_samples(out: Path, samples: dict[str, Any], images: Mapping[str, bytes]) -> None:
    """Write images by name and then `samples.json`; remove images that only the old one names.

    Raises:
        StoreError: the old file is damaged.
    """
    path, before = out / SAMPLES_FILE, read_samples(out) or {"images": []}
    for name, content in images.items():
        write_atomic(path.with_name(name), content)
    write_atomic(path, to_json(samples))
    old, new = ({image["file"] for image in found["images"]} for found in (before, samples))
    for name in old - new:
        path.with_name(name).unlink(missing_ok=True)


def is_number(value: Any) -> bool:
    """Whether a value of a record is a finite number."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)


def _check_config(path: Path, value: dict[str, Any]) -> TrainingConfig:
    try:
        kind = config_class(value)
    except ValueError as error:
        refuse(path, f"has an {error}")
    return check(path, value, kind)


def _digests(config: dict[str, Any]) -> set[str]:
    """The digests that a run of `config` may be named by.

    A version that had fewer fields made it of those, which are all that its config.json holds.
    """
    run = config_class(config)(**config)
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
        refuse(
            path, f"ends at {length} {done} of {config.get(f'{length}s')}, and DONE says finished"
        )
