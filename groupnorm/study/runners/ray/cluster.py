"""Runs the trials of a plan as tasks on a Ray cluster. Ray is imported when a study asks for it.

The study's own process is the only one that knows the store: it sends each trial what it needs to
go on, writes what comes back, and sends a trial whose node is lost to another one. Ray's own
retries are off, because they would begin a trial with what it had at the start.
"""

from __future__ import annotations

import contextlib
import importlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from groupnorm.files import first_line, write_atomic
from groupnorm.study.runners.local import Progress, finish, prepare
from groupnorm.study.runners.ray.connection import (
    Cluster,
    ClusterError,
    check_ray,
    check_resources,
    connected,
    fitting,
    needs,
)
from groupnorm.study.runners.ray.trial import (
    INITIAL_FILES,
    STATE_FILES,
    TOKEN_FILE,
    Event,
    EventQueue,
    InstallationError,
    Job,
    as_task,
    installation,
    state_files,
)
from groupnorm.study.store import (
    Record,
    read_metrics,
    read_record,
    run_folder,
    run_is_done,
    to_json,
)
from groupnorm.training.config import TrainingConfig

POLL = 0.3  # seconds between two looks at the events of the trials
PATIENCE = 3  # times a trial may lose its place without finishing an epoch in between


class ClusterProgress(Progress, Protocol):
    """What the cluster's runner reports besides what every runner does."""

    def moved(self, name: str, reason: str) -> None:
        """A trial has lost its place and waits for another."""

    def message(self, text: str) -> None:
        """Something about the cluster itself."""


@dataclass
class _Trial:
    """A trial that is somewhere on the cluster."""

    attempt: int = 0
    epochs: int = 0  # finished when it last lost its place
    losses: int = 0  # places lost since it last finished an epoch


def run_trials_on_cluster(
    out: Path,
    configs: Mapping[str, TrainingConfig],
    progress: ClusterProgress,
    *,
    cluster: Cluster,
    jobs: int | None = None,
    device: str = "cpu",
    data_root: Path | None = None,
    stop_epoch: int | None = None,
    stop_at_first_failure: bool = False,
) -> list[Record]:
    """Finish every run of `configs` that is not done yet, as many at a time as the cluster holds.

    The contract is that of `local.run_trials`, with the same bits for the same number of threads
    on the same kind of processor. A node that is lost costs the epoch its trials were in: each goes
    on elsewhere from its last checkpoint. A trial that loses its place three times without
    finishing an epoch in between has failed.

    Args:
        jobs: at most so many trials at a time.

    Returns:
        The records of all runs, in the order of `configs`.

    Raises:
        ClusterError: Ray is missing, the cluster does not answer within 20 seconds or is lost, no
            node has what a trial asks for, or a node has another version of the software.
    """
    check_ray()
    waiting = prepare(out, configs, progress, stop_epoch)
    if waiting:
        with connected(cluster.address) as ray:
            progress.message(check_resources(ray, cluster))
            token = secrets.token_hex(16)
            write_atomic(out / TOKEN_FILE, token)
            try:
                root = None if data_root is None else data_root.absolute()
                common = {
                    "out": out.absolute(),
                    "token": token,
                    "device": device,
                    "data_root": root,
                    "stop_epoch": stop_epoch,
                }
                runner = _Runner(ray, configs, progress, cluster, common)
                runner.run(waiting, jobs or len(waiting), stop_at_first_failure)
            finally:
                (out / TOKEN_FILE).unlink(missing_ok=True)
    return [read_record(out, name) for name in configs]


class _Runner:
    """The loop that sends trials out and handles their events.

    `common` is what all jobs have in common, by the names of `Job`.
    """

    def __init__(
        self,
        ray: Any,
        configs: Mapping[str, TrainingConfig],
        progress: ClusterProgress,
        cluster: Cluster,
        common: dict[str, Any],
    ) -> None:
        self.ray, self.configs, self.progress, self.cluster = ray, configs, progress, cluster
        self.out: Path = common["out"]
        self.stop_epoch: int | None = common["stop_epoch"]
        self.common = {**common, "threads": cluster.cpus, "installation": installation()}
        self.trials = {name: _Trial() for name in configs}
        self.tasks: dict[Any, str] = {}  # Ray's reference of a task -> name of its trial
        self.active: set[str] = set()  # trials that have a place
        self.waiting_reported = False
        strategies = importlib.import_module("ray.util.scheduling_strategies")
        here = strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        actor = ray.remote(EventQueue).options(num_cpus=0, scheduling_strategy=here)
        self.queue = actor.remote()
        self.remote = ray.remote(as_task)
        self.options = {"num_cpus": cluster.cpus, "num_gpus": cluster.gpus, "max_retries": 0}

    def run(self, waiting: list[str], jobs: int, stop_at_first_failure: bool) -> None:
        """Until every trial has ended; whatever ends this early takes the trials along."""
        try:
            while waiting or self.tasks:
                while waiting and len(self.tasks) < jobs:
                    self.submit(waiting.pop(0))
                # Ended tasks first, then events: so no event from before an end is missed.
                tasks = list(self.tasks)
                ended, _ = self.ray.wait(tasks, num_returns=len(tasks), timeout=POLL)
                for event in self.ray.get(self.queue.take.remote()):
                    self.handle(event)
                for task in ended:
                    name = self.tasks.pop(task)
                    self.active.discard(name)
                    done = self.end(name, task, waiting)
                    if stop_at_first_failure and not done:
                        return
                self.watch()
        except self.ray.exceptions.RayActorError as error:
            raise ClusterError(f"the cluster was lost: {first_line(error)}") from None
        finally:
            self.stop()

    def submit(self, name: str) -> None:
        """Send a trial to the cluster with what there is of it."""
        trial = self.trials[name]
        trial.attempt += 1
        init, files = self.configs[name].init, state_files(run_folder(self.out, name))
        initial: dict[str, bytes] = {}
        if init is not None and "checkpoint.pt" not in files:
            initial = state_files(run_folder(self.out, init), INITIAL_FILES)
        job = Job(
            name=name,
            attempt=trial.attempt,
            config=to_json(self.configs[name].model_dump()),
            files=files,
            initial_name=init,
            initial=initial,
            **self.common,
        )
        task = self.remote.options(name=name, **self.options).remote(job, self.queue)
        self.tasks[task] = name

    def handle(self, event: Event) -> None:
        """Store the files of an event and pass the event on."""
        name, folder = event["name"], run_folder(self.out, event["name"])
        if event["attempt"] != self.trials[name].attempt:
            return  # from a place that was given up as lost
        for file in (*STATE_FILES, "DONE"):
            if file in event["files"]:
                write_atomic(folder / file, event["files"][file])
        if event["event"] == "started":
            self.active.add(name)
            self.progress.started(name, self.configs[name])
        elif event["event"] == "step":
            self.progress.stepped(name, event["step"], event["total"])
        elif event["event"] == "epoch":
            self.progress.epoch(name, event["metrics"])
        elif event["event"] == "ended" and event["log"]:
            with (folder / "log.txt").open("a", encoding="utf-8") as log:
                log.write(event["log"])

    def end(self, name: str, task: Any, waiting: list[str]) -> bool:
        """Settle a trial whose task has ended, or put it first in line again if it was lost.

        Returns:
            False when it has failed.
        """
        errors = self.ray.exceptions
        try:
            failure = self.ray.get(task)
        except InstallationError as error:
            raise ClusterError(str(getattr(error, "cause", error))) from None
        except (errors.NodeDiedError, errors.WorkerCrashedError, errors.LocalRayletDiedError) as e:
            done = run_is_done(read_record(self.out, name), self.stop_epoch)
            failure = None if done else self.lost(name, first_line(e))
            if not done and failure is None:
                waiting.insert(0, name)
                return True
        except errors.RayTaskError as error:
            if "failed to import" in str(error) or isinstance(error.cause, ImportError):
                raise ClusterError(
                    "a node of the cluster cannot load groupnorm; install the same version, with "
                    f"the extras study and cluster, on every node ({first_line(error.cause)})"
                ) from None
            failure = f"{type(error.cause).__name__}: {first_line(error.cause)}"
        except errors.RayError as error:
            failure = f"{type(error).__name__}: {first_line(error)}"
        return finish(self.out, name, failure, self.progress, self.stop_epoch)

    def lost(self, name: str, reason: str) -> str | None:
        """Count a lost place; returns why the trial is given up, or None if it goes on."""
        trial = self.trials[name]
        epochs = len(read_metrics(run_folder(self.out, name)))
        trial.losses = trial.losses + 1 if epochs == trial.epochs else 1
        trial.epochs = epochs
        if trial.losses >= PATIENCE:
            return f"lost its place {PATIENCE} times without finishing an epoch: {reason}"
        after = f"epoch {epochs}" if epochs else "the start"
        self.progress.moved(name, f"its node was lost; goes on elsewhere from {after}")
        return None

    def watch(self) -> None:
        """Say so, once, when no trial has a place and no node could give one."""
        if self.active or not self.tasks:
            self.waiting_reported = False
        elif not self.waiting_reported and not fitting(self.ray.nodes(), self.cluster):
            self.waiting_reported = True
            self.progress.message(f"waiting for a node with {needs(self.cluster)} to join")

    def stop(self) -> None:
        """Take back every task that is still out: first so that it can clean up, then by force."""
        with contextlib.suppress(self.ray.exceptions.RayError):
            tasks = list(self.tasks)
            for force in (False, True):
                for task in tasks:
                    self.ray.cancel(task, force=force)
                if tasks:
                    _, tasks = self.ray.wait(tasks, num_returns=len(tasks), timeout=5)
