"""Progress of a study: live lines in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from groupnorm.data import ImageSet
from groupnorm.data.issues import describe_altered, describe_unreadable
from groupnorm.printable import print_line
from groupnorm.study.results.format import decimal_text
from groupnorm.study.results.wording import noun, value_text
from groupnorm.study.store import UNREADABLE
from groupnorm.training.config import TrainingConfig
from groupnorm.training.config.classification import IMAGE_SIZE
from groupnorm.training.metric import CLASSIFICATION, Metric


def describe(config: TrainingConfig) -> str:
    """One run in a few words, as progress and errors name it."""
    fields = config.identity()
    batch = f"{fields['workers']}x{fields['batch_per_worker']}"
    return f"{config.norm_text} {batch} seed {config.seed}"


def names_of(configs: Mapping[str, TrainingConfig]) -> dict[str, str]:
    """What each run is called: `describe`, and what those that it calls the same differ in."""
    alike: dict[str, dict[str, dict[str, Any]]] = {}
    for name, config in configs.items():
        alike.setdefault(describe(config), {})[name] = config.identity()
    names = {}
    for text, runs in alike.items():
        keys = dict.fromkeys(key for fields in runs.values() for key in fields)
        differ = [k for k in keys if len({str(fields.get(k)) for fields in runs.values()}) > 1]
        for name, fields in runs.items():
            names[name] = ", ".join([text, *(f"{key} {fields.get(key)}" for key in differ)])
    return {name: names[name] for name in configs}


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def pixels_of(images: object) -> int:
    """Height and width of the images that a run which chooses no size is trained on.

    It counts where a run begins with smaller ones (`size_schedule`): images in memory have a size,
    and of all else the default stands for it.
    """
    return int(images.train_images.shape[-1]) if isinstance(images, ImageSet) else IMAGE_SIZE


def _measured(metrics: dict[str, Any], metric: Metric) -> str:
    """What an epoch gave, as "error 27.3 %"; empty where it was not evaluated."""
    value = metrics.get(metric.name)
    return "" if value is None else f"{noun(metric)} {value_text(metric, value)}"


def trial_bars(console: Console) -> Progress:
    """Bars with a note and the time that has passed; none where there is no terminal."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[note]}", markup=False),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )


class StudyProgress:
    """Shows one line a trial (epoch, metric, speed, time left) and one for the whole.

    Use as a context manager. On a terminal the lines are live; elsewhere every finished epoch
    prints a plain line.

    How far a trial has come, and the time left, go by the pixels that are trained on: steps with
    smaller images (`size_schedule`) take less time.

    Args:
        own_size: pixels of the data's images, for runs that choose no size.
    """

    def __init__(
        self,
        configs: Mapping[str, TrainingConfig],
        console: Console,
        stop_epoch: int | None = None,
        metric: Metric = CLASSIFICATION[0],
        own_size: int = 32,
    ) -> None:
        self.configs = configs
        self.metric = metric
        self.own_size = own_size
        self.names = names_of(configs)
        self.stop_epoch = stop_epoch
        self.console = console
        self.began = time.monotonic()
        self.trial_began: dict[str, tuple[float, float | None]] = {}
        self.fractions = dict.fromkeys(configs, 0.0)
        self.restored = dict.fromkeys(configs, 0.0)  # what was there at the start, as fractions
        self.tasks: dict[str, TaskID] = {}
        self.latest: dict[str, dict[str, Any]] = {}
        self.said: set[str] = set()  # lines about files that are printed once
        self.lost: set[str] = set()  # trials that were moved: what they had was made in this start
        self.bars = trial_bars(console)
        self.total = self.bars.add_task("all trials", total=1.0, note="")

    def __enter__(self) -> StudyProgress:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def started(self, name: str, config: TrainingConfig) -> None:
        """A trial's process was started."""
        self.trial_began[name] = (time.monotonic(), None)
        self.tasks[name] = self.bars.add_task(self.names[name], total=1.0, note="starting")
        if not self.console.is_terminal:
            self._line(f"{self.names[name]}: started")

    def stepped(self, name: str, step: int, total: int) -> None:
        """A trial has done `step` of the `total` steps of its schedule."""
        config = self.configs[name]
        last = total
        if self.stop_epoch is not None and config.epochs:
            last = total * min(self.stop_epoch, config.epochs) // config.epochs
        whole, done = (
            config.full_size_steps(steps, total, self.own_size) for steps in (last, step)
        )
        began, first = self.trial_began[name]
        if first is None:
            self.trial_began[name] = (time.monotonic(), done)
            if name not in self.lost:
                self.restored[name] = done / whole
            first = done
        self.fractions[name] = done / whole
        elapsed = time.monotonic() - began
        left = (whole - done) * elapsed / (done - first) if done > first else None
        self._show(name, left)

    def epoch(self, name: str, metrics: dict[str, Any]) -> None:
        """A trial has finished an epoch."""
        self.latest[name] = metrics
        counts = metrics.get("image_counts", {})
        if text := describe_unreadable(counts):
            self._line_once(f"{text}; named in {UNREADABLE} in the folder of the run")
        for text in describe_altered(counts).values():
            self._line_once(text)
        if not self.console.is_terminal:
            epochs = self.configs[name].epochs
            epoch = f"epoch {metrics['epoch']}{f'/{epochs}' if epochs else ''}"
            words = self._in_words(name)
            self._line(f"{self.names[name]}: {epoch}, {words}; {self._whole()}")

    def ended(self, name: str, status: str, reason: str | None) -> None:
        """A trial has ended: "finished", "diverged", "failed", or "partial": it was to stop."""
        before = name not in self.tasks and status != "failed"  # was done before this start
        _, first = self.trial_began.get(name, (0.0, None))
        if first is None and name not in self.lost:  # no step of it was made in this start
            self.restored[name] = 1.0
        self.fractions[name] = 1.0
        if name in self.tasks:
            self.bars.update(self.tasks[name], completed=1.0, visible=False)
        stopped = f"epoch {self.stop_epoch} of {self.configs[name].epochs} reached"
        text = f"{self.names[name]}: {stopped if status == 'partial' else status}"
        if before:
            text += " before"
        if reason:
            text += f": {reason}"
        elif name in self.latest and (found := _measured(self.latest[name], self.metric)):
            text += f", {found} after the last epoch"
        self._line(text)
        self.bars.update(self.total, completed=self._done(), note=self._whole())

    def moved(self, name: str, reason: str) -> None:
        """A trial has lost its place on a cluster and waits for another."""
        self.lost.add(name)
        if name in self.tasks:
            self.bars.update(self.tasks.pop(name), visible=False)
        self._line(f"{self.names[name]}: {reason}")

    def message(self, text: str) -> None:
        """Something that concerns no single trial."""
        self._line(text)

    def _in_words(self, name: str) -> str:
        """What the latest epoch of a trial gave, where it was evaluated, and its speed."""
        metrics, examples = self.latest[name], self.configs[name].trained_on
        speed = f"{decimal_text(metrics['timing']['images_per_second'], 0)} {examples}/s"
        return ", ".join(filter(None, (_measured(metrics, self.metric), speed)))

    def _show(self, name: str, left: float | None) -> None:
        note = []
        if name in self.latest:
            metrics = self.latest[name]
            note.append(f"epoch {metrics['epoch']}, {self._in_words(name)}")
        if left is not None:
            note.append(f"{clock(left)} left")
        if name in self.tasks:
            self.bars.update(self.tasks[name], completed=self.fractions[name], note=", ".join(note))
        self.bars.update(self.total, completed=self._done(), note=self._whole())

    def _done(self) -> float:
        return sum(self.fractions.values()) / len(self.fractions)

    def _whole(self) -> str:
        done = self._done()
        made = (self.fractions[name] - self.restored[name] for name in self.configs)
        fresh = sum(made) / len(self.configs)
        if fresh <= 0:
            return f"all trials {100 * done:.0f} %"
        left = (time.monotonic() - self.began) * (1 - done) / fresh
        return f"all trials {100 * done:.0f} %, about {clock(left)} left"

    def _line_once(self, text: str) -> None:
        if text not in self.said:
            self.said.add(text)
            self._line(text)

    def _line(self, text: str) -> None:
        print_line(self.console, text)
