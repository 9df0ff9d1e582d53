"""Joining studies of one experiment: a folder that is a study itself, with the runs of them all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groupnorm.files import write_atomic
from groupnorm.run.tasks import config_class
from groupnorm.study.results.conversions import trial_files
from groupnorm.study.results.costs import CostPass
from groupnorm.study.results.labels import label_text
from groupnorm.study.results.samples import Samples, joined_samples
from groupnorm.study.store import (
    COST_FILE,
    FORMAT,
    SAMPLES_FILE,
    UNREADABLE,
    Cell,
    Record,
    StoreError,
    check_study_place,
    locked_folder,
    read_manifest,
    read_record,
    read_starts,
    run_folder,
    to_json,
    write_samples,
)

# What is copied of a run: its record, not its checkpoint.
RECORD_FILES = ("config.json", "env.json", "metrics.jsonl", UNREADABLE, "DONE", "FAILED")
# What must agree, and in what words.
SAME = {
    "study": "experiment",
    "data": "data",
    "protocol": "protocol",
    "tuned_over": "tuned field",
    "metric": "metric",
}
# What the cells of one experiment vary, besides their labels.
VARIED = {"norm", "norms", "workers", "batch_per_worker", "seed", "max_unreadable"}
_HANDLED = {
    "format", "title", "command", "scale", "options", "cells", "skipped", "shows", "published",
    "versions", "joined", "also", "findings", "conversions", *SAME,
}  # fmt: skip


@dataclass(frozen=True)
class _Source:
    """A study to join: its folder, what it holds, and the runs that its own start from."""

    folder: Path
    manifest: dict[str, Any]
    records: dict[str, Record]
    initial: dict[str, Record]


def join_studies(folders: Sequence[Path], out: Path, command: str) -> None:
    """Make `out` a study with the cells and the records of all `folders`.

    A cell, a run or a trial of a conversion that several hold is there once. Checkpoints are not
    copied. Times of training steps are left out, because those of different studies were not taken
    in turns. Predictions on test images are joined where the images are the same. The same studies
    give the same bytes.

    Args:
        command: how a user repeats this; recorded and shown in the report.

    Raises:
        StoreError: the studies are not of one experiment, on one data set, with one protocol and
            recipe; a run's record differs between two of them; `out` is one of them or holds
            something else.
        LockedError: another process is at work on `out`.
    """
    given = [folder.resolve() for folder in folders]
    if len(set(given)) < len(given) or out.resolve() in given:
        twice = next(f for n, f in enumerate([*folders, out]) if f.resolve() in given[:n])
        raise StoreError(
            f"{twice} is named twice: the studies to join and --out are each a folder of their own"
        )
    check_study_place(out)
    if (out / "study.json").exists() and read_manifest(out).get("joined") is None:
        raise StoreError(f"{out} holds a study of its own; choose another --out")
    sources = [_read(folder) for folder in folders]
    for other in sources[1:]:
        _check_same(sources[0], other)
    cells = _join_cells(sources)
    contents, trials = _join_runs(sources), _join_trials(sources)
    with locked_folder(out, f"another process is at work in {out}"):
        for name, files in contents.items():
            for file in RECORD_FILES:
                path = run_folder(out, name) / file
                if file in files:
                    write_atomic(path, files[file])
                else:
                    path.unlink(missing_ok=True)
        for place, content in trials.items():
            write_atomic(out / place, content)
        reason = "the studies that were joined here were timed apart from each other"
        write_atomic(out / COST_FILE, to_json(CostPass(0, [], {}, reason).as_json()))
        _write_samples(folders, cells, out)
        write_atomic(out / "study.json", to_json(_join_manifests(sources, cells, command)))


def _write_samples(folders: Sequence[Path], cells: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Write what the studies predicted on the same test images, or why it is left out."""
    samples, folder = joined_samples(
        folders, [Cell(c["labels"], c["seed"], c["run"]) for c in cells]
    )
    if samples is None:
        if not (out / SAMPLES_FILE).exists():  # of studies that were joined before
            return
        samples = Samples(reason="the studies that were joined here have none")
    names = [image["file"] for image in samples.images]
    images = {name: (folder / SAMPLES_FILE).with_name(name).read_bytes() for name in names}
    write_samples(out, samples.as_json(), images)


def _read(folder: Path) -> _Source:
    manifest = read_manifest(folder)
    further = [k for k, v in manifest.items() if k not in _HANDLED and v is not None]
    if further:
        raise StoreError(
            f"{folder} cannot be joined with others: its {further[0]} belongs to its own runs"
        )
    names = dict.fromkeys(cell["run"] for cell in manifest["cells"])
    records = {name: read_record(folder, name) for name in names}
    return _Source(folder, manifest, records, read_starts(folder, records))


def _check_same(first: _Source, other: _Source) -> None:
    """Raise StoreError, which names what differs, for studies that make no common table."""
    differing = [
        f"{words} {_short(first.manifest.get(key))} and {_short(other.manifest.get(key))}"
        for key, words in SAME.items()
        if first.manifest.get(key) != other.manifest.get(key)
    ]
    if not differing:
        ours, theirs = _recipe(first), _recipe(other)
        differing = [
            f"{name} {', '.join(sorted(ours[name]))} and {', '.join(sorted(theirs[name]))}"
            for name in ours.keys() & theirs.keys()
            if not (ours[name] <= theirs[name] or theirs[name] <= ours[name])
        ]
    if differing:
        raise StoreError(
            f"{first.folder} and {other.folder} cannot be joined, they differ: "
            f"{'; '.join(sorted(differing))}"
        )


def _recipe(source: _Source) -> dict[str, set[str]]:
    """The values of every field that a study's cells have in common, or vary in a hidden way."""
    labels = {key for cell in source.manifest["cells"] for key in cell["labels"]}
    found: dict[str, set[str]] = {}
    for record in source.records.values():
        if not record.config:
            continue
        config = config_class(record.config)(**record.config)
        fields = {k: v for k, v in config.model_dump().items() if k not in VARIED | labels}
        if source.manifest["protocol"] == "fixed-step":
            fields["images of a step"] = config.step_images
        for name, value in fields.items():
            found.setdefault(name, set()).add(json.dumps(value))
    return found


def _join_cells(sources: Sequence[_Source]) -> list[dict[str, Any]]:
    """The cells of all studies, each once, in the order of their first appearance."""
    found: dict[tuple[str, int], tuple[Path, dict[str, Any]]] = {}
    for source in sources:
        for cell in source.manifest["cells"]:
            key = (json.dumps(cell["labels"], sort_keys=True), cell["seed"])
            folder, before = found.setdefault(key, (source.folder, cell))
            if before["run"] != cell["run"]:
                raise StoreError(
                    f"{label_text(cell['labels'])}, seed {cell['seed']}, is another run in "
                    f"{folder} ({before['run']}) than in {source.folder} ({cell['run']})"
                )
    return [cell for _, cell in found.values()]


def _join_runs(sources: Sequence[_Source]) -> dict[str, dict[str, bytes]]:
    """The files of every run by name; a run that was not begun has none.

    Of a run that several studies hold, with one result, the first study's files are taken.
    """
    found: dict[str, tuple[_Source, dict[str, bytes]]] = {}
    for source in sources:
        for name in source.initial | source.records:
            folder = run_folder(source.folder, name)
            files = {f: (folder / f).read_bytes() for f in RECORD_FILES if (folder / f).exists()}
            if not files:
                continue
            first, before = found.setdefault(name, (source, files))
            ours, theirs = _result(before), _result(files)
            different = [file for file in ours if ours[file] != theirs[file]]
            if different:
                raise StoreError(
                    f"the run {name} is in {first.folder} ({_status(first, name)}) and in "
                    f"{source.folder} ({_status(source, name)}) with another "
                    f"{' and '.join(different)}; leave one of the two studies out"
                )
    return {name: files for name, (_, files) in found.items()}


def _join_trials(sources: Sequence[_Source]) -> dict[Path, bytes]:
    """The files of all trials of conversions, by their place in a study's folder.

    Of a trial that several studies hold, with one result, the first study's file is taken; one that
    failed there gives way to one that did not.
    """
    found: dict[Path, tuple[Path, dict[str, Any], bytes]] = {}
    for source in sources:
        for path in trial_files(source.folder, source.manifest):
            name, content = path.relative_to(source.folder), path.read_bytes()
            result = {**(json.loads(content)["result"] or {}), "seconds": None}
            first, before, _ = found.setdefault(name, (path, result, content))
            if len(before) == 1:
                found[name] = (path, result, content)
            elif len(result) > 1 and result != before:
                raise StoreError(
                    f"{first} and {path} are of one trial and have different results; leave one of "
                    "the two studies out"
                )
    return {name: content for name, (_, _, content) in found.items()}


def _join_conversions(manifests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The trials of every network, each once; of several aims those of the first study."""
    found: dict[str, Any] = {}
    for manifest in manifests:
        for network, asked in (manifest.get("conversions") or {}).items():
            mine = found.setdefault(network, {"trials": [], "aims": asked["aims"]})
            mine["trials"] += [trial for trial in asked["trials"] if trial not in mine["trials"]]
    return found


def _status(source: _Source, name: str) -> str:
    return (source.initial | source.records)[name].status


def _result(files: Mapping[str, bytes]) -> dict[str, Any]:
    """What two records of one run must have in common: all but its times and its machine."""
    lines = files.get("metrics.jsonl", b"").splitlines()
    metrics = [{k: v for k, v in json.loads(line).items() if k != "timing"} for line in lines]
    others = {f: files.get(f) for f in RECORD_FILES if f not in ("env.json", "metrics.jsonl")}
    return {"metrics.jsonl": metrics, **others}


def _join_manifests(
    sources: Sequence[_Source], cells: list[dict[str, Any]], command: str
) -> dict[str, Any]:
    manifests = [source.manifest for source in sources]
    first = manifests[0]
    shows = list(dict.fromkeys(m["shows"] for m in manifests))
    sizes = {cell["labels"].get("batch_per_worker") for cell in cells}
    if len(sizes) > 1 and not {"groups", "arms", "clips", "fine-tuning", "conversions"} & set(
        shows
    ):
        shows = ["batch-size"]
    asked = {(json.dumps(cell["labels"], sort_keys=True)) for cell in cells}
    skipped = {
        json.dumps(skip["labels"], sort_keys=True): skip for m in manifests for skip in m["skipped"]
    }
    joined = [
        line
        for source in sources
        for line in source.manifest.get("joined")
        or [{"folder": str(source.folder), "command": source.manifest["command"]}]
    ]
    shown: dict[str, Any] = {"metric": first.get("metric")}
    shown["conversions"] = _join_conversions(manifests)
    shown |= {key: _each_once(manifests, key) for key in ("also", "findings")}
    return {
        "format": FORMAT,
        "study": first["study"],
        "title": "; ".join(dict.fromkeys(m["title"] for m in manifests)),
        "command": command,
        "protocol": first["protocol"],
        "scale": first["scale"] if len({m["scale"] for m in manifests}) == 1 else None,
        "data": first["data"],
        "options": _common([m["options"] for m in manifests]),
        "cells": cells,
        "skipped": [skip for labels, skip in skipped.items() if labels not in asked],
        "shows": shows[0],
        "published": list(dict.fromkeys(name for m in manifests for name in m["published"])),
        "tuned_over": first.get("tuned_over"),
        "versions": _common([m["versions"] for m in manifests]),
        "joined": joined,
        **{key: value for key, value in shown.items() if value},
    }


def _each_once(manifests: Sequence[Mapping[str, Any]], key: str) -> list[Any]:
    """What the lists under a key hold, each entry once."""
    return list(
        {json.dumps(named): named for m in manifests for named in m.get(key) or ()}.values()
    )


def _common(values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all agree on. The rest is in the records of the runs."""
    first, *others = values
    return {k: v for k, v in first.items() if all(k in o and o[k] == v for o in others)}


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {found}" for key, found in value.items())
    return str(value)
