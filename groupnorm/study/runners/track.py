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
from groupnorm.study.store import is_number, read_config, read_metrics, run_folder
from groupnorm.training.config import TrainingConfig
from groupnorm.training.metric import CLASSIFICATION, PRECISE, TRAINING, Metric

_NAMES = {"lr": "learning rate", "epoch": None, "step": None}
"""What is called otherwise in TensorBoard than in a row of metrics.jsonl, or is no curve."""


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
        for curve, value in curve_values(row, self.images).items():
            self.writer.add_scalar(curve, value, row["epoch"], when)


def curve_values(row: dict[str, Any], images: str) -> dict[str, float]:
    """The numbers of an epoch by the name of their curve, whatever the task measures.

    "train_error" is "error/train"; "val_error" is "error/test" or "error/validation". What is
    neither of the training nor of the evaluation images keeps its name.

    Args:
        images: those of the evaluation, "test" or "validation".
    """
    names = {
        key: _NAMES.get(key, _curve(key, images)) for key, value in row.items() if is_number(value)
    }
    found = {name: row[key] for key, name in names.items() if name is not None}
    speed = row.get("timing", {}).get("images_per_second")
    return found if speed is None else {**found, "images per second": speed}


def _curve(key: str, images: str) -> str:
    recomputed = ", recomputed statistics" if key.startswith(PRECISE) else ""
    name = key.removeprefix(PRECISE)
    for prefix, group in ((TRAINING, "train"), ("val_", images)):
        if name.startswith(prefix):
            return f"{name.removeprefix(prefix)}/{group}{recomputed}"
    return f"{name}{recomputed}"


class TrackedProgress(StudyProgress):
    """A study's progress that also writes the curves of its runs under `out`/tensorboard."""

    def __init__(
        self,
        out: Path,
        configs: Mapping[str, TrainingConfig],
        console: Any,
        stop_epoch: int | None = None,
        metric: Metric = CLASSIFICATION[0],
        own_size: int = 32,
    ) -> None:
        super().__init__(configs, console, stop_epoch, metric, own_size)
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
