"""A store made up by a formula, for tests of what reads a store. No number in it was measured."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from groupnorm.study.results.rows import Row, Study, load_study, summarize_study
from groupnorm.training.metric import CLASSIFICATION, Metric

EPOCHS = 8
ERROR = CLASSIFICATION[0]
BOX_AP = Metric("box_ap", "", "higher", "box AP")
MASK_AP = Metric("mask_ap", "", "higher", "mask AP")
BATCH_INDEPENDENT = ("gn", "ln", "in", "none")


def fake_error(norm: str, batch: int, seed: int) -> float:
    """A final error in percent with the shape of the paper's Figure 1."""
    base = {"bn": 21.0, "gn": 22.0, "ln": 24.0, "in": 27.0}.get(norm.partition(":")[0], 23.0)
    small_batch = 14.0 * (2.0 / batch) ** 1.6 if norm.startswith("bn") else 0.0
    wobble = 0.3 * math.sin(7.0 * seed + len(norm) + batch)
    wobble += 0.05 * math.sin(seed * (1 + sum(map(ord, norm)) % 11))  # not the same for all norms
    return base + small_batch + wobble


def fake_metrics(
    norm: str, batch: int, seed: int, epochs: int = EPOCHS, final: float | None = None
) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl that settle at `final` (`fake_error` unless given)."""
    target = fake_error(norm, batch, seed) if final is None else final
    rows = []
    for epoch in range(1, epochs + 1):
        left = math.exp(-6.0 * epoch / EPOCHS)
        error = target + (88.0 - target) * left
        precise = error - 0.4 * (target - 21.0) if norm.startswith("bn") else None
        rows.append(
            {
                "epoch": epoch,
                "step": 10 * epoch,
                "lr": 0.1,
                "train_loss": error / 50.0,
                "train_error": 0.8 * error,
                "val_loss": error / 45.0,
                "val_error": error,
                "precise_val_error": precise if epoch > epochs - 5 else None,
                "timing": {
                    "seconds": 2.0 + 0.1 * seed,
                    "images_per_second": 1000.0 + epoch,
                    "step_memory_bytes": 50_000_000 + epoch,
                },
            }
        )
    return rows


def write_run(out: Path, name: str, config: dict[str, Any], rows: list[dict[str, Any]]) -> Path:
    """A finished run."""
    folder = out / "runs" / name
    folder.mkdir(parents=True)
    full = {"model": "resnet8", "data": "digits", "epochs": EPOCHS, "base_lr": 0.1, **config}
    (folder / "config.json").write_text(json.dumps(full))
    env = {"python": "3.11.0", "torch": "0.0-fake", "cpu": "fake", "parameters": 78_042}
    (folder / "env.json").write_text(json.dumps(env))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "DONE").write_text(json.dumps({"status": "finished", "reason": None}))
    return folder


def configured(study: Study, pattern: str = "*", **keys: Any) -> Study:
    """A study that has been read, with other values in the configurations of some of its runs."""
    return replace(
        study,
        records={
            name: replace(record, config={**record.config, **keys})
            if record.config and fnmatch(name, pattern)
            else record
            for name, record in study.records.items()
        },
    )


def spoil(folder: Path, status: str, reason: str = "", epochs: int = 3) -> None:
    """Turn a finished run into a diverged, failed, partial or missing one."""
    (folder / "DONE").unlink()
    if status == "missing":
        for file in sorted(folder.iterdir()):
            file.unlink()
        folder.rmdir()
        return
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:epochs]))
    if status == "diverged":
        (folder / "DONE").write_text(json.dumps({"status": "diverged", "reason": reason}))
    elif status == "failed":
        (folder / "FAILED").write_text(json.dumps({"reason": reason}))


def batch_study(
    out: Path,
    norms: tuple[str, ...] = ("bn", "gn:groups=8", "gn:groups=8+ws"),
    batches: tuple[int, ...] = (32, 8, 2),
    seeds: int = 3,
    study: str = "batch-size",
) -> Path:
    """A finished study under the fixed-step protocol: batch-independent norms share their runs."""
    cells, skipped = [], []
    for norm in norms:
        shared = norm.partition(":")[0].partition("+")[0] in BATCH_INDEPENDENT
        for batch in batches:
            for seed in range(seeds):
                run_batch = batches[0] if shared else batch
                name = f"{norm.replace(':', '-').replace('=', '')}-n{run_batch}-s{seed}"
                cells.append(
                    {"labels": {"norm": norm, "batch_per_worker": batch}, "seed": seed, "run": name}
                )
                if not (out / "runs" / name).exists():
                    config = {
                        "norm": norm, "batch_per_worker": run_batch, "workers": 64 // run_batch,
                        "seed": seed,
                    }  # fmt: skip
                    write_run(out, name, config, fake_metrics(norm, run_batch, seed))
    write_manifest(out, study, cells, skipped)
    return out


def groups_study(out: Path, seeds: int = 3) -> Path:
    """A finished study of group divisions in which 64 does not fit."""
    cells, skipped = [], []
    for division in ("groups", "size"):
        for value in (64, 16, 8, 4, 2, 1):
            norm = f"gn:{division}={value}"
            labels = {"norm": norm, "division": division, "value": value, "batch_per_worker": 32}
            if value == 64:
                reason = "16 channels cannot be divided into 64 groups"
                skipped.append({"labels": labels, "reason": reason})
                continue
            for seed in range(seeds):
                name = f"{division}{value}-s{seed}"
                worse = {("groups", 1): 1.2, ("size", 1): 4.3}.get((division, value), 0.0)
                error = fake_error(norm, 32, seed) + worse
                config = {"norm": norm, "batch_per_worker": 32, "workers": 2, "seed": seed}
                write_run(out, name, config, fake_metrics(norm, 32, seed, final=error))
                cells.append({"labels": labels, "seed": seed, "run": name})
    write_manifest(out, "groups", cells, skipped)
    return out


ARMS = {"frozenbn, fine-tuned": 31.4, "gn+ws, fine-tuned": 33.0, "bn at 2, from scratch": 6.3}
"""Box AP of each arm, give or take what a seed makes."""


def arm_rows(final: float, epochs: int = 5) -> list[dict[str, Any]]:
    """Rows of a detector's metrics.jsonl that end at a box AP of `final`."""
    return [
        {
            "epoch": epoch, "step": 100 * epoch, "lr": 0.03, "train_loss": 2.0 / epoch,
            "box_ap": final * epoch / epochs, "mask_ap": 0.85 * final * epoch / epochs,
            "timing": {"seconds": 9.0, "images_per_second": 50.0, "step_memory_bytes": 9_000_000},
        }
        for epoch in range(1, epochs + 1)
    ]  # fmt: skip


def arms_study(out: Path, seeds: int = 2, arms: dict[str, float] = ARMS, also: bool = True) -> Path:
    """A finished study with the label "arm" alone, of box AP, which is better the higher it is."""
    cells = []
    for number, (arm, final) in enumerate(arms.items()):
        for seed in range(seeds):
            name = f"arm{number}-s{seed}"
            cells.append({"labels": {"arm": arm}, "seed": seed, "run": name})
            wobble = 0.4 * seed + 0.07 * number * (-1) ** seed
            config = {"seed": seed, "reported_epochs": 1, "epochs": 5, "data": "garments"}
            folder = write_run(out, name, config, arm_rows(final + wobble))
            env = json.loads((folder / "env.json").read_text())
            env["metrics"] = [asdict(metric) for metric in (BOX_AP, MASK_AP)]
            (folder / "env.json").write_text(json.dumps(env))
    write_manifest(out, "detection", cells, [])
    add_to_manifest(out, shows="arms", published=[], metric=asdict(BOX_AP))
    return add_to_manifest(out, also=[asdict(MASK_AP)]) if also else out


def loaded(out: Path) -> tuple[Study, list[Row]]:
    """A study and its rows, as what makes a report gets them."""
    study = load_study(out)
    return study, summarize_study(study)


def write_manifest(
    out: Path, study: str, cells: list[dict[str, Any]], skipped: list[dict[str, Any]]
) -> None:
    """study.json for the given cells."""
    manifest = {
        "format": 1,
        "study": study,
        "title": "A made-up study",
        "command": f"groupnorm study {study} --out DIR",
        "protocol": "fixed-step",
        "scale": "quick",
        "data": {
            "name": "digits", "version": "1", "train": 1437, "test": 360, "classes": 10,
            "source": "a formula",
        },
        "options": {"scale": "quick", "model": None},
        "cells": cells,
        "skipped": skipped,
        "versions": {"groupnorm": "0.1.0", "torch": "0.0-fake"},
    }  # fmt: skip
    (out / "study.json").write_text(json.dumps(manifest))


def add_costs(out: Path, timed: bool = True) -> None:
    """Give every run of a study the counts that runs record, and the study its `cost.json`."""
    found = []
    for index, folder in enumerate(sorted((out / "runs").iterdir())):
        env = json.loads((folder / "env.json").read_text())
        env["cost"] = {
            "images": 64, "saved_bytes_per_image": 2**20 * (1.5 + 0.02 * index),
            "training_flops_per_image": 242e6,
        }  # fmt: skip
        (folder / "env.json").write_text(json.dumps(env))
        found.append({
            "runs": [folder.name], "images": 64, "forward_ms_per_image": 2.0,
            "backward_ms_per_image": 4.0 + 0.2 * index, "spread": 0.01 * index, "norm_share": 0.125,
        })  # fmt: skip
    machine = {"torch": "0.0-fake", "cpu": "a fake processor", "threads": 1}
    cost = {"rounds": 7, "configurations": found, "environment": machine, "reason": None}
    if timed:
        (out / "cost.json").write_text(json.dumps({"format": 1, **cost}))


def add_to_manifest(out: Path, **keys: Any) -> Path:
    """Put keys into study.json."""
    manifest = json.loads((out / "study.json").read_text())
    (out / "study.json").write_text(json.dumps({**manifest, **keys}))
    return out


WORSE = {"bn": {0.1: 0.0, 0.3: 1.5, 1.0: 4.0}, "gn": {0.1: 3.0, 0.3: 0.0, 1.0: 2.0}}
"""What each learning rate adds to a norm's error: BN's best is 0.1, GN's is 0.3."""


def tried_runs(out: Path, seeds: int, validation_images: int | None = None) -> list[dict[str, Any]]:
    """The cells of a run for each norm, learning rate and seed."""
    cells = []
    for norm, rates in WORSE.items():
        for rate, more in rates.items():
            for seed in range(seeds):
                name = f"{norm}-{'tried-' if validation_images else ''}lr{rate}-s{seed}"
                labels = {"norm": norm, "batch_per_worker": 32, "base_lr": rate}
                cells.append({"labels": labels, "seed": seed, "run": name})
                error = fake_error(norm, 32, seed) + more + (2.0 if validation_images else 0.0)
                config = {"norm": norm, "batch_per_worker": 32, "base_lr": rate, "seed": seed}
                config |= {"validation_images": validation_images} if validation_images else {}
                write_run(out, name, config, fake_metrics(norm, 32, seed, final=error))
    return cells


def tuned_on_test(out: Path, seeds: int = 2) -> Path:
    """Two norms, each tuned over three learning rates as by earlier versions: on test images."""
    write_manifest(out, "tuned", tried_runs(out, seeds), [])
    return add_to_manifest(out, shows="norms", tuned_over="base_lr", published=["pets-notebook"])


def tuned_study(out: Path, seeds: int = 2) -> Path:
    """The same norms and learning rates, chosen on 140 validation images, then trained again."""
    tried = tried_runs(out, 1, validation_images=140)
    cells = []
    for norm, rate in (("bn", 0.1), ("gn", 0.3)):
        for seed in range(seeds):
            name = f"{norm}-chosen-s{seed}"
            labels = {"norm": norm, "batch_per_worker": 32, "base_lr": rate}
            cells.append({"labels": labels, "seed": seed, "run": name})
            config = {"norm": norm, "batch_per_worker": 32, "base_lr": rate, "seed": seed}
            write_run(out, name, config, fake_metrics(norm, 32, seed))
    write_manifest(out, "tuned", cells, [])
    tuning = {"validation_images": 140, "cells": tried}
    return add_to_manifest(
        out, shows="norms", tuned_over="base_lr", published=["pets-notebook"], tuning=tuning
    )


ACCURACY = Metric("val_accuracy", "%", "higher", "top-1 accuracy")
_MIRRORED = {
    "val_error": "val_accuracy",
    "precise_val_error": "precise_val_accuracy",
    "train_error": "train_accuracy",
}


def in_accuracy(out: Path) -> Path:
    """The same study with accuracies, which are better the higher they are, in place of errors."""
    for path in sorted(out.glob("runs/*/metrics.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            for error, accuracy in _MIRRORED.items():
                value = row.pop(error)
                row[accuracy] = None if value is None else 100.0 - value
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    trained = Metric("train_accuracy", "%", "higher", "training accuracy")
    for path in out.glob("runs/*/env.json"):
        named = {"metrics": [asdict(metric) for metric in (ACCURACY, trained)]}
        path.write_text(json.dumps({**json.loads(path.read_text()), **named}))
    return add_to_manifest(out, metric=asdict(ACCURACY))


def add_responses(out: Path) -> Path:
    """Give every run of a study percentiles of the recorded responses."""
    for path in sorted(out.glob("runs/*/metrics.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        grow = 0.3 if path.parent.name.startswith("none") else 0.02
        for row in rows:
            size = 1 + grow * row["epoch"]
            found = {"1": -3 * size, "20": -size, "80": 0.8 * size, "99": 2.5 * size}
            row["response_percentiles"] = found
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return out
