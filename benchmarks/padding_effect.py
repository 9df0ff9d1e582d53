"""How much the padding of a batch moves a detector's average precision.

    python benchmarks/padding_effect.py RUN_FOLDER... [--images N] [--out FILE.json]

A run folder is what `groupnorm train task=detection data=garments --out RUN_FOLDER` leaves. Its
detector is evaluated on the test images as they are, all of one size, then beside a larger image of
zeros in every batch, up to whose size they are padded with zeros after normalization. Group norm
takes its statistics over image and padding; frozen batch norm takes none, so that it shows what
padding does otherwise. Differences in AP are paired over parts of the test images.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from groupnorm.environment import environment
from groupnorm.run.detection import build, load, make_task
from groupnorm.study.trained import find_run, read_trained
from groupnorm.training.distributed import ALONE

SIZES = ((96, 96), (96, 128), (128, 128), (160, 160), (192, 192))
"""Heights and widths that the images, of 96 x 96 pixels, are padded to."""
METRICS = ("box_ap", "mask_ap")


class Padded(nn.Module):
    """A detector whose every batch holds one more image, of zeros and of the given size."""

    def __init__(self, model: nn.Module, height: int, width: int) -> None:
        super().__init__()
        self.model, self.size = model, (height, width)

    def forward(self, images: list[Tensor]) -> Any:
        """Detections of the images alone."""
        return self.model([*images, torch.zeros(3, *self.size)])[: len(images)]


def measure(folder: Path, images: int | None) -> dict[str, Any]:
    """AP at every size of padding, and its difference from that of images that are not padded."""
    folder = find_run(folder)
    config, _, weights, record = read_trained(folder)
    data = load(config, "cpu", None)
    model = build(config, data, "cpu")
    model.load_state_dict(weights)
    if images is not None:
        few = replace(data.data.test, images=data.data.test.images[:images])
        data = type(data)(replace(data.data, test=few), test_batch=data.test_batch)
    task = make_task(config, data, model, ALONE)
    rows: list[dict[str, Any]] = []
    for height, width in SIZES:
        found = task.evaluate(Padded(model, height, width), reported=True)
        row: dict[str, Any] = {"height": height, "width": width}
        for name in METRICS:
            folds = found["ap_folds"][name]
            row[name] = {"value": found[name], "folds": folds}
            if rows:
                first = rows[0][name]
                differences = [a - b for a, b in zip(folds, first["folds"], strict=True)]
                row[name]["difference"] = found[name] - first["value"]
                row[name]["standard_error"] = statistics.stdev(differences) / math.sqrt(len(folds))
        rows.append(row)
        print(folder.name, height, width, *(f"{name} {row[name]['value']:.2f}" for name in METRICS),
              flush=True)  # fmt: skip
    return {
        "run": config.run_name(),
        "norm": str(config.norm),
        "norms": {place: str(spec) for place, spec in config.norms.items()},
        "config": record.config,
        "rows": rows,
    }


def main() -> None:
    """Measure, print, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", metavar="RUN_FOLDER")
    parser.add_argument("--images", type=int, help="of the test images; all without it")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs = [measure(folder, arguments.images) for folder in arguments.folders]
    record = {
        "command": "python benchmarks/padding_effect.py RUN_FOLDER...",
        "environment": environment(),
        "image_side": 96,
        "runs": runs,
    }
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
