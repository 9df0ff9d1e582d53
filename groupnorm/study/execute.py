"""A study from beginning to end: plan, check, train, report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from groupnorm import data as datasets
from groupnorm.environment import software
from groupnorm.files import describe_os_error, locked, write_atomic
from groupnorm.printable import print_line
from groupnorm.study.cost_pass import measure_costs, skip_costs
from groupnorm.study.plan import Plan, PlanError
from groupnorm.study.report.page import build_report
from groupnorm.study.results.compare import compared_tables
from groupnorm.study.results.costs import read_cost_pass
from groupnorm.study.runners.local import available_cores, run_trials
from groupnorm.study.runners.progress import StudyProgress
from groupnorm.study.runners.ray.cluster import run_trials_on_cluster
from groupnorm.study.runners.ray.connection import Cluster, check_gpus, check_ray
from groupnorm.study.runners.track import TrackedProgress, check_track
from groupnorm.study.store import (
    FORMAT,
    Record,
    StoreError,
    check_study_place,
    read_manifest,
    to_json,
)
from groupnorm.training.device import check_device


@dataclass(frozen=True)
class StudyOutcome:
    """Where the report is, and the record of every run."""

    report: Path
    records: list[Record]


def run_study(
    plan: Plan,
    out: Path,
    *,
    jobs: int | None = None,
    device: str = "cpu",
    data_root: Path | None = None,
    command: str = "",
    console: Console | None = None,
    cluster: Cluster | None = None,
    track: str | None = None,
) -> StudyOutcome:
    """Train what is missing of `plan` in the folder `out` and write its report.

    Starting again on the same folder finishes what is missing and continues what is half done.

    Args:
        jobs: trials at a time; by default one for every core, or as many as the cluster holds. The
            machine's cores are divided among them.
        command: how a user repeats the study; recorded and shown in the report.
        cluster: the Ray cluster that the trials run on; without one, processes on this machine.
        track: "tensorboard" writes every run's curves to `out`/tensorboard.

    Raises:
        PlanError: jobs below 1, or `out` holds another study.
        ValueError, RuntimeError: a device that is unknown, or not there.
        ClusterError: Ray is missing, or the cluster does not answer or fit; see
            `run_trials_on_cluster`.
        TrackError: `track` is unknown, or its package is missing.
        DataError: the data set is missing or damaged.
        StoreError: `out` is damaged, belongs to a run, or cannot be written to.
        LockedError: another process is at work on `out`.
    """
    if jobs is not None and jobs < 1:
        raise PlanError(f"jobs must be at least 1, got {jobs}")
    check_study_place(out)
    if track is not None:
        check_track(track)
    check_device(device, here=cluster is None)
    if cluster is not None:
        check_ray()
        check_gpus(cluster, device)
    images = datasets.load(plan.data, data_root)
    for config in plan.configs.values():
        available = len(images.train_labels) - (config.validation_images or 0)
        if available < max(config.step_images, config.train_images or 0):
            what = f"a step of {config.workers} x {config.batch_per_worker} images"
            if config.train_images:
                what += f" from {config.train_images}"
            held_out = config.validation_images
            rest = f" besides the {held_out} held out" if held_out else ""
            raise PlanError(
                f"{what} needs more than the {available} training images of {images.name}{rest}"
            )
    manifest = _manifest(plan, images, command)
    compared_tables(manifest)  # an unknown one is found before the trials, not after them
    refusal = f"another study is at work in {out}; wait for it, or choose another --out"
    try:
        with locked(out / ".lock", refusal):
            _claim(out, manifest)
            read_cost_pass(out)  # damage is found before the trials, not after them
            console = console or Console(emoji=False)
            for note in images.notes if isinstance(images, datasets.ImageFiles) else ():
                print_line(console, f"note: {note}")
            show = StudyProgress(plan.configs, console)
            if track is not None:
                show = TrackedProgress(out, plan.configs, console)
            with show as progress:
                if cluster is not None:
                    records = run_trials_on_cluster(
                        out,
                        plan.configs,
                        progress,
                        cluster=cluster,
                        jobs=jobs,
                        device=device,
                        data_root=data_root,
                    )
                    skip_costs(out, "the trials ran on the nodes of a cluster")
                else:
                    cores = available_cores()
                    jobs = min(jobs or (cores if device == "cpu" else 1), len(plan.configs))
                    threads = max(1, cores // jobs)
                    records = run_trials(
                        out,
                        plan.configs,
                        progress,
                        jobs=jobs,
                        threads=threads,
                        device=device,
                        data_root=data_root,
                    )
                    if plan.untimed is not None:
                        skip_costs(out, plan.untimed)
                    else:
                        measure_costs(
                            out,
                            plan.configs,
                            threads=threads,
                            device=device,
                            data_root=data_root,
                            on_message=progress.message,
                        )
            return StudyOutcome(build_report(out), records)
    except BrokenPipeError:  # of the output: nobody reads it any more
        raise
    except OSError as error:
        raise StoreError(
            f"{describe_os_error(error)}; what was finished is kept in {out}, and the same command "
            "goes on from it"
        ) from error


def _manifest(
    plan: Plan, images: datasets.ImageSet | datasets.ImageFiles, command: str
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "study": plan.study,
        "title": plan.title,
        "command": command,
        "protocol": plan.protocol,
        "scale": plan.scale,
        "data": {
            "name": images.name,
            "version": images.version,
            "train": len(images.train_labels),
            "test": len(images.test_labels),
            "classes": images.num_classes,
        },
        "options": plan.options,
        "cells": [{"labels": c.labels, "seed": c.seed, "run": c.run} for c in plan.cells],
        "skipped": plan.skipped,
        "shows": plan.shows,
        "published": list(plan.published),
        "tuned_over": plan.tuned_over,
        "versions": {key: value for key, value in software().items() if key != "kernels"},
    }


def _claim(out: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest, or check that the one there asks for the same cells on the same data."""
    path = out / "study.json"
    if not path.exists():
        write_atomic(path, to_json(manifest))
        return
    existing = read_manifest(out)
    if any(existing[key] != manifest[key] for key in ("study", "cells")):
        raise PlanError(
            f"{out} holds another study ({existing['title']}, made by {existing['command']!r}); "
            "repeat that command to continue it, or choose another --out"
        )
    before, now = existing["data"], manifest["data"]
    changes = [
        f"{name} was {before.get(key)}, is {now[key]}"
        for key, name in _DATA_WORDS.items()
        if before.get(key) != now[key]
    ]
    if changes:
        raise PlanError(
            f"the data has changed since the study in {out} began: {', '.join(changes)}. Its runs "
            "would not be comparable: restore the data, or begin a new study with another --out"
        )


_DATA_WORDS = {
    "name": "its name",
    "version": "its version (the names and sizes of its files, and their classes)",
    "train": "the number of training images",
    "test": "the number of test images",
    "classes": "the number of classes",
}
