"""A study of fine-tuning made up by a formula. No number in it was measured."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from groupnorm.training.metric import SEGMENTATION
from tests.study.fake_store import add_to_manifest, write_manifest, write_run

FINAL = {"converted": 40.0, "reset GN": 36.0, "frozen BN": 39.9, "BN trained": 30.0}
"""Mean IoU in percent at the end, by arm."""
SIZES = (1, 2, 4)
STEPS = (50, 100, 150, 300, 1000)
PRETRAINED = "bn-1x32-s0-0123456789"
REPORT: dict[str, Any] = {
    "version": 2, "to": "gn", "layers": [{}] * 8, "skipped": [], "new_keys": [],
    "removed_keys": [], "output_error": 0.02, "notes": [],
}  # fmt: skip


def fine_tuning_study(
    out: Path, seeds: int = 3, skipped: list[dict[str, str]] | None = None
) -> Path:
    """A finished study; only trained batch norm has other runs at each number of images."""
    cells, written = [], set()
    for size in SIZES:
        for number, (arm, final) in enumerate(FINAL.items()):
            depends = arm == "BN trained"
            for seed in range(seeds):
                name = f"arm{number}{f'-{size}' if depends else ''}-s{seed}"
                labels = {"arm": arm, "batch_per_worker": size}
                cells.append({"labels": labels, "seed": seed, "run": name})
                if name in written:
                    continue
                written.add(name)
                wobble = (
                    0.3 * seed + 0.2 * math.sin(3 * seed + number) + (2 * size if depends else 0)
                )
                config = {
                    "seed": seed, "reported_epochs": 1, "epochs": None, "steps": 1000,
                    "data": "garments-masks", "model": "unet_narrow", "task": "segmentation",
                    "init": PRETRAINED,
                }  # fmt: skip
                folder = write_run(out, name, config, step_rows(final + wobble, depends))
                env = json.loads((folder / "env.json").read_text())
                env["metrics"] = [asdict(metric) for metric in SEGMENTATION]
                env["init"] = {"run": PRETRAINED, "loaded": 48, "left_out": [], "fresh": []}
                if arm == "converted":
                    env["init"]["conversion"] = {**REPORT, "skipped": skipped or []}
                (folder / "env.json").write_text(json.dumps(env))
    write_manifest(out, "fine-tuning", cells, [])
    return add_to_manifest(out, shows="fine-tuning", published=[], metric=asdict(SEGMENTATION[0]))


def step_rows(final: float, batch_norm: bool) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl that rise to `final`."""
    return [
        {
            "epoch": epoch, "step": step, "lr": 0.1, "train_loss": 1.0, "val_loss": 1.0,
            "val_mean_iou": final * step / (step + 1000 / step),
            "precise_val_mean_iou": final + 1 if batch_norm and step == STEPS[-1] else None,
            "timing": {"seconds": 2.0, "images_per_second": 100.0, "step_memory_bytes": 1000},
        }
        for epoch, step in enumerate(STEPS, 1)
    ]  # fmt: skip


RATES = (1.6, 3.2)


def tuned(out: Path) -> Path:
    """The same study with learning rates tried: the higher one is better for every arm."""
    manifest = json.loads((out / "study.json").read_text())
    cells, tried = manifest["cells"], []
    for cell in cells:
        if cell["seed"]:
            continue
        for rate in RATES:
            name = f"{cell['run']}-{rate}"
            labels = {**cell["labels"], "base_lr": rate}
            tried.append({"labels": labels, "seed": 0, "run": name})
            if (out / "runs" / name).exists():
                continue
            config = json.loads((out / "runs" / cell["run"] / "config.json").read_text())
            config |= {"base_lr": rate, "validation_images": 40}
            rows = step_rows(30.0 + rate, "BN" in name)
            folder = write_run(out, name, config, rows)
            shutil.copy(out / "runs" / cell["run"] / "env.json", folder / "env.json")
    chosen = [{**cell, "labels": {**cell["labels"], "base_lr": RATES[-1]}} for cell in cells]
    tuning = {"validation_images": 40, "cells": tried}
    return add_to_manifest(out, cells=chosen, tuned_over="base_lr", tuning=tuning)
