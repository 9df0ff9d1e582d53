"""The pass of a study that converts its trained networks, after its runs and in processes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from groupnorm.counts import counted
from groupnorm.printable import print_line
from groupnorm.study.conversions.records import is_done
from groupnorm.study.conversions.trial import NetworkTrials, Trial
from groupnorm.study.runners.launcher import LaunchedTrial, Launcher
from groupnorm.study.runners.local import run_processes
from groupnorm.study.runners.progress import clock, trial_bars
from groupnorm.study.store import Cell, read_record, run_folder

_LINE_EVERY = 30.0  # seconds between two lines where they are not live


def convert_teachers(
    out: Path,
    cells: Sequence[Cell],
    trials: Mapping[str, NetworkTrials],
    *,
    jobs: int,
    device: str,
    data_root: Path | None,
    console: Console,
) -> int:
    """Do the trials that are missing of every finished run, `jobs` processes at a time.

    What is there stays. A trial that fails costs only itself, a process that is killed the trials
    that it did not come to; the next start does what is missing. A process does the trials of one
    run, or a part of them where there are fewer runs than `jobs`. It has one thread, so that a
    trial gives the same bits however many there are.

    Args:
        cells: of the study's table; their label `network` names the trials.
        trials: by network.

    Returns:
        How many failed, or were not done because their process was killed.

    Raises:
        StoreError: a file of the study is damaged.
    """
    waiting: dict[str, list[Trial]] = {}
    names: dict[str, str] = {}
    every = done = 0
    for cell in sorted(cells, key=lambda cell: cell.seed):
        mine = trials[cell.labels["network"]].trials
        every += len(mine)
        if read_record(out, cell.run).status != "finished":
            continue
        left = [trial for trial in mine if not is_done(run_folder(out, cell.run), trial)]
        done += len(mine) - len(left)
        names[cell.run] = f"{cell.labels['network']}, seed {cell.seed}"
        if left:
            waiting[cell.run] = left
    to_do = sum(map(len, waiting.values()))
    gone = every - done - to_do
    without = f", {gone} of networks that did not finish are left out" if gone else ""
    print_line(
        console, f"{counted(every, 'trial')} of conversions: {done} reused, {to_do} to do{without}"
    )
    if not waiting:
        return 0
    work = _shared_out(waiting, jobs)
    titles = {job: names[run] for job, (run, _) in work.items()}
    with _Progress(titles, {job: mine for job, (_, mine) in work.items()}, console) as progress:

        def launch(launcher: Launcher, name: str) -> LaunchedTrial:
            progress.started(name)
            run, mine = work[name]
            return launcher.launch(
                run_folder(out, run),
                device=device,
                data_root=data_root,
                conversions=[trial.as_json() for trial in mine],
            )

        def ended(name: str, failure: str) -> bool:
            progress.ended(name, failure)
            return True

        run_processes(list(work), launch, progress.on_event, ended, jobs=jobs, threads=1)
        return progress.failed


def _shared_out(
    waiting: Mapping[str, Sequence[Trial]], jobs: int
) -> dict[str, tuple[str, list[Trial]]]:
    """The run and the trials of every process, by a name of it.

    Trials that follow each other, which may begin with the same conversion, stay together. The
    parts of a run take about the same time.
    """
    parts = -(-jobs // len(waiting))
    work: dict[str, tuple[str, list[Trial]]] = {}
    for run, trials in waiting.items():
        share = sum(trial.seconds for trial in trials) / parts
        done = 0.0
        for trial in trials:
            part = min(int(done / share), parts - 1)
            work.setdefault(f"{run}, part {part}", (run, []))[1].append(trial)
            done += trial.seconds
    return work


class _Progress:
    """One line for the whole and one for each process; plain lines where there is no terminal."""

    def __init__(
        self, names: Mapping[str, str], waiting: Mapping[str, Sequence[Trial]], console: Console
    ) -> None:
        self._names = names
        self._waiting = waiting
        self._ended = dict.fromkeys(waiting, 0)
        self.failed = 0
        self._seconds = {t.name: t.seconds for trials in waiting.values() for t in trials}
        self._total = sum(t.seconds for trials in waiting.values() for t in trials)
        self._done = 0.0
        self._began = time.monotonic()
        self._said = self._began
        self._console = console
        self._bars = trial_bars(console)
        self._whole = self._bars.add_task("all trials", total=1.0, note="")
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> _Progress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def started(self, name: str) -> None:
        """The process of a run was started."""
        total = len(self._waiting[name])
        self._tasks[name] = self._bars.add_task(self._names[name], total=total, note="")

    def on_event(self, name: str, event: dict[str, Any]) -> None:
        """A process has done a trial."""
        if event["event"] != "trial":
            return
        self._ended[name] += 1
        self._done += self._seconds[event["trial"]]
        if event["reason"] is not None:
            self.failed += 1
            text = f"{self._names[name]}: {event['trial']} failed: {event['reason']}"
            print_line(self._console, text)
        self._bars.update(self._tasks[name], completed=self._ended[name])
        self._bars.update(self._whole, completed=self._done / self._total, note=self._left())
        now = time.monotonic()
        if not self._console.is_terminal and now - self._said >= _LINE_EVERY:
            self._said = now
            print_line(self._console, self._in_words())

    def ended(self, name: str, failure: str) -> None:
        """The process of a run has ended; with trials that it did not come to, it has failed."""
        self._bars.update(self._tasks[name], visible=False)
        left = len(self._waiting[name]) - self._ended[name]
        self.failed += left
        why = f"; {counted(left, 'trial')} not done: {failure}" if left else ""
        done = counted(self._ended[name], "trial")
        print_line(self._console, f"{self._names[name]}: {done} done{why}")

    def _in_words(self) -> str:
        ended, every = sum(self._ended.values()), sum(map(len, self._waiting.values()))
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{ended} of {every} trials{failed}, {self._left()}"

    def _left(self) -> str:
        spent = time.monotonic() - self._began
        return f"about {clock(spent * (self._total / self._done - 1))} left"
