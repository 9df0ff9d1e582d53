"""A study of detectors made up by a formula, with all that their records hold. Nothing in it was
measured."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from groupnorm.data.detection import rle
from groupnorm.study.results.samples import Samples
from groupnorm.training.config import RunConfig
from groupnorm.training.metric import MASK_DETECTION
from tests.study.fake_store import add_to_manifest, fake_metrics, write_manifest, write_run

BOX_AP = MASK_DETECTION[0]
SHOWN = tuple(m for m in MASK_DETECTION if m.name in ("box_ap50", "box_ap75", "mask_ap"))
CURVES = ("box_ap50", "box_ap75", "mask_ap50", "mask_ap75")
PARTS = 10


class Arm(NamedTuple):
    """An arm's box AP, what its backbone is, and the epochs and seeds of its runs."""

    ap: float
    norm: str
    pretrained: bool = True
    epochs: int = 4
    seeds: int = 2


DETECTORS = {
    "frozen BN": Arm(31.4, "bn"),
    "BN trained at 2": Arm(28.7, "bn"),
    "GN": Arm(28.0, "gn:groups=8"),
    "GN+WS": Arm(33.0, "gn:groups=8+ws"),
    "GN+WS, from scratch": Arm(16.1, "gn:groups=8+ws", False, 8, 1),
    "BN at 2, from scratch": Arm(13.0, "bn", False, 8, 1),
}
ERRORS = {"bn": 38.0, "gn:groups=8": 42.9, "gn:groups=8+ws": 36.0}
"""The error of the classifier that an arm starts from."""


def detector_study(out: Path, arms: Mapping[str, Arm] = DETECTORS, **manifest: Any) -> Path:
    """A finished study of arms: box AP, three further metrics, backbones from classifiers."""
    for norm, error in ERRORS.items():
        rows = fake_metrics(norm, 64, 0, epochs=5, final=error)
        config = start_of(norm)
        write_run(out, config.run_name(), config.model_dump(mode="json"), rows)
    cells = []
    for number, (name, arm) in enumerate(arms.items()):
        for seed in range(arm.seeds):
            run = f"arm{number}-s{seed}"
            cells.append({"labels": {"arm": name}, "seed": seed, "run": run})
            final = arm.ap + 0.5 * seed + 0.2 * math.sin(5 * number + 3 * seed)
            config = {
                "seed": seed, "reported_epochs": 1, "epochs": arm.epochs, "data": "garments",
                "model": "mask_rcnn_narrow", "norm": arm.norm,
                "init": start_of(arm.norm).run_name() if arm.pretrained else None,
            }  # fmt: skip
            folder = write_run(out, run, config, detector_rows(final, number, arm.epochs))
            env = json.loads((folder / "env.json").read_text())
            env["metrics"] = [asdict(metric) for metric in MASK_DETECTION]
            (folder / "env.json").write_text(json.dumps(env))
    write_manifest(out, "detection", cells, [])
    data = {"name": "garments", "version": "1", "train": 3000, "test": 500, "classes": 5}
    shown = {"metric": asdict(BOX_AP), "also": [asdict(metric) for metric in SHOWN]}
    return add_to_manifest(out, shows="arms", published=[], data=data, **shown, **manifest)


def start_of(norm: str) -> RunConfig:
    """The classifier that an arm with this norm starts from."""
    return RunConfig(norm=norm, data="digits", model="resnet8", epochs=5, reported_epochs=1)


def detector_rows(final: float, number: int, epochs: int) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl that end at a box AP of `final`; every second epoch is evaluated."""
    rows = []
    for epoch in range(1, epochs + 1):
        row: dict[str, Any] = {
            "epoch": epoch, "step": 125 * epoch, "lr": 0.03, "train_loss": 2.0 / epoch,
            "timing": {
                "seconds": 21.0, "images": 1000, "images_per_second": 55.0 - number,
                "data_seconds": 0.6, "forward_seconds": 6.0, "backward_seconds": 10.0,
                "step_memory_bytes": 95_000_000 + 1_000_000 * number,
            },
        }  # fmt: skip
        if epoch % 2 == 0:
            values = aps_of(final * (1 - math.exp(-4 * epoch / epochs)) / (1 - math.exp(-4)))
            row |= values
        if epoch == epochs:
            row["ap_folds"] = {name: parts_of(value, number) for name, value in values.items()}
            row["precision_at_recall"] = {name: curve_of(values[name]) for name in CURVES}
        rows.append(row)
    return rows


def aps_of(box_ap: float) -> dict[str, float]:
    """Every metric of a detector with this box AP."""
    factors = {"": 1.0, "50": 1.8, "75": 0.98, "_small": 0.5, "_medium": 1.1, "_large": 1.3}
    return {
        f"{kind}_ap{suffix}": share * factor * box_ap
        for kind, share in (("box", 1.0), ("mask", 0.85))
        for suffix, factor in factors.items()
    }


def parts_of(value: float, number: int) -> list[float]:
    """A value on each part of the test images; most of how they vary is the same for all arms."""
    return [
        value + 1.5 * math.sin(2.0 * part) + 0.6 * math.sin(3.0 * part * (number + 1))
        for part in range(PARTS)
    ]


def curve_of(value: float) -> list[float]:
    """Precision at 101 recalls whose mean is `value` to a percent or so."""
    steep = 100.0 / value - 1.0
    return [round(100.0 * (1.0 - recall / 100.0) ** steep, 3) for recall in range(101)]


def add_samples(out: Path, count: int = 2, height: int = 24, width: int = 32) -> Path:
    """Predictions of the first seed of each arm on grey images with one object."""
    folder = out / "samples"
    folder.mkdir()
    mask = np.zeros((height, width), np.uint8)
    mask[4:20, 6:18] = 1
    truth = {
        "category": "bag", "box": [6.0, 4.0, 18.0, 20.0], "crowd": False,
        "mask": {"size": [height, width], "counts": rle.to_string(rle.encode(mask))},
    }  # fmt: skip
    images = []
    for number in range(count):
        pixels = np.full((height, width, 3), 60 + 20 * number, np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        of_file = {"file": f"{number}.png", "image_id": number + 1, "truth": [truth]}
        images.append({**of_file, "height": height, "width": width})
    found = {**{k: v for k, v in truth.items() if k != "crowd"}, "score": 0.9}
    manifest = json.loads((out / "study.json").read_text())
    runs = {
        cell["run"]: {"objects": [[found], *[[]] * (count - 1)], "not_finite": 0}
        for cell in manifest["cells"]
        if cell["seed"] == 0
    }
    samples = Samples(categories=["shoe", "bag"], images=images, runs=runs)
    (folder / "samples.json").write_text(json.dumps(samples.as_json()))
    return out
