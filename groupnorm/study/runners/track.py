"""The curves of every run for TensorBoard, written by the process that owns the store.

`<out>/tensorboard/<run>/` is made anew from the record when a run is started, and gets every
later epoch as it ends. So each epoch is there once, however often the run was stopped or moved.
"""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from groupnorm.study.runners.progress import StudyProgress
from groupnorm.study.store import read_config, read_metrics, run_folder
from groupnorm.training.config import TrainingConfig

# name of the curve in TensorBoard -> where the value is in a row of metrics.jsonl; {images} are
# those of the evaluation, "test" or "validation"
CURVES = {
    "error/train": ("train_error",),
    "error/{images}": ("val_error",),
    "error/{images}, recomputed statistics": ("precise_val_error",),
    "loss/train": ("train_loss",),
    "loss/{images}": ("val_loss",),
    "learning rate": ("lr",),
    "images per second": ("timing", "images_per_second"),
}


class TrackError(RuntimeError):
    """Curves were asked for in a way that is unknown, or whose package is missing."""


def check_track(kind: str) -> None:
    """Check that curves can be written as `kind` says, without importing anything.

    Raises:
        TrackError: `kind` is not "tensorboard", or that package is not installed.
    """
    if kind != "tensorboard":
        raise TrackError(f"--track takes tensorboard, got {kind!r}")
    if importlib.util.find_spec("tensorboard") is None:
        raise TrackError(
            "--track tensorboard needs tensorboard; install it with: pip install 'groupnorm[track]'"
        )


class RunCurves:
    """The curves of one run in a folder of their own.

    Args:
        folder: made anew; holds nothing but event files.
        rows: epochs that are in the run's record already, as in metrics.jsonl. The last one's
            wall time is `until`, in seconds since 1970; those before it lie back by their seconds.
        images: of the evaluation, "test" or "validation".
    """

    def __init__(self, folder: Path, rows: list[dict[str, Any]], until: float, images: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.images = images
        shutil.rmtree(folder, ignore_errors=True)
        # purge_step: a TensorBoard that is watching forgets what it has seen of this run
        self.writer = SummaryWriter(str(folder), purge_step=0)
        self.last = 0
        seconds = [row.get("timing", {}).get("seconds", 0.0) for row in rows]
        left = sum(seconds)
        for row, spent in zip(rows, seconds, strict=True):
            left -= spent
            self._add(row, until - left)
        self.writer.flush()

    def epoch(self, row: dict[str, Any]) -> None:
        """Add one epoch, unless it is there already (sent again after a restart)."""
        if row["epoch"] > self.last:
            self._add(row, time.time())
            self.writer.flush()

    def close(self) -> None:
        """Finish the event file."""
        self.writer.close()

    def _add(self, row: dict[str, Any], when: float) -> None:
        self.last = row["epoch"]
        for curve, keys in CURVES.items():
            value: Any = row
            for key in keys:
                value = None if value is None else value.get(key)
            if value is not None:
                self.writer.add_scalar(curve.format(images=self.images), value, row["epoch"], when)


class TrackedProgress(StudyProgress):
    """A study's progress that also writes the curves of its runs under `out`/tensorboard."""

    def __init__(
        self,
        out: Path,
        configs: Mapping[str, TrainingConfig],
        console: Any,
        stop_epoch: int | None = None,
        own_size: int = 32,
    ) -> None:
        super().__init__(configs, console, stop_epoch, own_size)
        self.out = out
        self.curves: dict[str, RunCurves] = {}

    def __exit__(self, *details: object) -> None:
        super().__exit__(*details)
        for curves in self.curves.values():
            curves.close()

    def started(self, name: str, config: TrainingConfig) -> None:
        """A trial's process was started."""
        if name not in self.curves:  # else it was moved and goes on
            self.curves[name] = recorded_curves(
                self.out / "tensorboard" / name, run_folder(self.out, name)
            )
        super().started(name, config)

    def epoch(self, name: str, metrics: dict[str, Any]) -> None:
        """A trial has finished an epoch."""
        self.curves[name].epoch(metrics)
        super().epoch(name, metrics)

    def ended(self, name: str, status: str, reason: str | None) -> None:
        """A trial has ended: "finished", "diverged" or "failed"."""
        curves = self.curves.pop(name, None) or recorded_curves(
            self.out / "tensorboard" / name, run_folder(self.out, name)
        )
        curves.close()
        super().ended(name, status, reason)


def recorded_curves(folder: Path, run: Path) -> RunCurves:
    """The curves in `folder` of what the record in `run` holds so far."""
    metrics = run / "metrics.jsonl"
    until = metrics.stat().st_mtime if metrics.exists() else time.time()
    config = read_config(run)
    images = "validation" if config is not None and config.validation_images else "test"
    return RunCurves(folder, read_metrics(run), until, images)
