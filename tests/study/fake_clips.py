"""A study of clips made up by a formula, with all that its records hold. Nothing in it was
measured."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from groupnorm.study.results.samples import Samples
from groupnorm.training.metric import VIDEO
from tests.study.fake_store import add_to_manifest, write_manifest, write_run

SHOWN = VIDEO[1:4]
CLIPS = {8: 2, 16: 1}
"""The stride of clips with so many frames."""
CLASSES = ("right", "left", "cw", "ccw", "swing", "shake")
ACCURACY = {"gn:size=8": 96.5, "bn": 96.0, "gn:size=8+ws": 96.0, "bn+ws": 95.5}
LOSS = {8: 0.4, 4: 1.6, 2: 3.2}
"""What batch norm loses at so many clips per worker."""


def clip_study(
    out: Path,
    norms: tuple[str, ...] = ("gn:size=8", "bn"),
    seeds: int = 3,
    clips: Mapping[int, int] = CLIPS,
    batches: tuple[int, ...] = (8, 4, 2),
    epochs: int = 3,
    **manifest: Any,
) -> Path:
    """A finished study under the fixed-step protocol: group norm is trained once for all batches.

    Clips at stride 2 have a ceiling of 90 %.
    """
    cells = []
    for norm in norms:
        for frames, stride in clips.items():
            for batch in batches:
                alone = norm.startswith("gn")
                for seed in range(seeds):
                    of_batch = batches[0] if alone else batch
                    run = f"{norm.replace(':', '-').replace('=', '')}-{frames}f-n{of_batch}-s{seed}"
                    labels = {
                        "norm": norm, "batch_per_worker": batch, "frames": frames, "stride": stride,
                    }  # fmt: skip
                    cells.append({"labels": labels, "seed": seed, "run": run})
                    if (out / "runs" / run).exists():
                        continue
                    final = ACCURACY[norm] - (0.0 if alone else LOSS[batch])
                    final -= 10.2 if stride > 1 else 0.0
                    final += 0.4 * math.sin(5 * seed) + 0.3 * math.sin(
                        seed * (frames + len(norm)) + batch
                    )
                    config = {
                        "task": "video", "model": "i3d_narrow", "data": "garments-motion",
                        "seed": seed, "norm": norm, "frames": frames, "stride": stride,
                        "workers": 16 // of_batch, "batch_per_worker": of_batch, "epochs": epochs,
                        "reported_epochs": 1,
                    }  # fmt: skip
                    folder = write_run(out, run, config, clip_rows(final, frames, alone, epochs))
                    env = json.loads((folder / "env.json").read_text())
                    env["metrics"] = [asdict(metric) for metric in VIDEO]
                    (folder / "env.json").write_text(json.dumps(env))
    write_manifest(out, "video", cells, [])
    data = {
        "name": "garments-motion", "version": "1", "train": 12000, "test": 2000, "classes": 10,
        "ceilings": {"2": 90.0},
    }  # fmt: skip
    shown = {"metric": asdict(VIDEO[0]), "also": [asdict(metric) for metric in SHOWN]}
    more = {"shows": "clips", "data": data, "published": ["kinetics-clips"]}
    return add_to_manifest(out, **{**more, **shown, **manifest})


def clip_rows(final: float, frames: int, alone: bool, epochs: int = 3) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl that end at an accuracy of `final`."""
    rows = []
    for epoch in range(1, epochs + 1):
        value = final * (1 - math.exp(-2 * epoch)) / (1 - math.exp(-2 * epochs))
        found = {
            "val_accuracy": value, "val_accuracy_top5": 100 - 0.05 * (100 - value),
            "one_clip_accuracy": value - 0.7,
            "one_clip_accuracy_top5": 100 - 0.06 * (100 - value), "val_loss": 2.0 / epoch,
        }  # fmt: skip
        recomputed = epoch == epochs and not alone
        precise = {
            f"precise_{k}": v + 0.02 * (90 - v) + 0.01 * frames if recomputed else None
            for k, v in found.items()
        }
        rows.append(
            {
                "epoch": epoch, "step": 300 * epoch, "lr": 0.05, "train_loss": 2.0 / epoch,
                "train_accuracy": value + 1.0, **found, **precise,
                "timing": {
                    "seconds": 11.0, "images": 4800, "images_per_second": 8000 / frames,
                    "data_seconds": 0.6, "forward_seconds": 3.0, "backward_seconds": 6.0,
                    "step_memory_bytes": (2_000_000 + 200_000 * (not alone)) * frames,
                },
            }
        )  # fmt: skip
    return rows


def add_clip_samples(out: Path, count: int = 8, frames: int = 16, side: int = 16) -> Path:
    """Predictions of the first seeds on videos of a square that moves to the right."""
    folder = out / "samples"
    folder.mkdir()
    images = []
    for number in range(count):
        pixels = np.full((side, frames, side, 3), 40 + 20 * number, np.uint8)
        for frame in range(frames):
            place = (frame + number) % (side - 4)
            pixels[5:9, frame, place : place + 4] = (240, 200, 60)
        Image.fromarray(pixels.reshape(side, frames * side, 3)).save(folder / f"{number}.png")
        images.append({
            "file": f"{number}.png", "video": number, "height": side, "width": side,
            "frames": frames, "truth": CLASSES[number % len(CLASSES)],
        })  # fmt: skip
    manifest = json.loads((out / "study.json").read_text())
    runs = {}
    for place, cell in enumerate(cell for cell in manifest["cells"] if cell["seed"] == 0):
        wrong = place % 3
        objects = [
            [{"category": CLASSES[(n + (n % 4 == wrong)) % len(CLASSES)], "score": 0.9 - 0.05 * n}]
            for n in range(count)
        ]
        runs[cell["run"]] = {"objects": objects, "not_finite": 0}
    samples = Samples(0.0, list(CLASSES), images, runs, content="clips")
    (folder / "samples.json").write_text(json.dumps(samples.as_json()))
    return out
