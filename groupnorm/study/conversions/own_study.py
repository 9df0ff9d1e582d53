"""A study of the conversions of one network of the user's own: nothing is trained in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from groupnorm.environment import environment, software
from groupnorm.files import write_atomic
from groupnorm.printable import print_line
from groupnorm.study.conversions.conversion_pass import convert_teachers
from groupnorm.study.conversions.own_network import (
    OWN_FILE,
    OwnNetwork,
    OwnRecord,
    OwnTeacher,
    read_own_network,
)
from groupnorm.study.conversions.trial import NetworkTrials
from groupnorm.study.plan import PlanError
from groupnorm.study.report.page import build_report
from groupnorm.study.results.rows import NO_TRAINING
from groupnorm.study.store import (
    FORMAT,
    Cell,
    check_study_place,
    locked_folder,
    run_folder,
    to_json,
    write_metrics,
)

RUN = "network"
"""The name of the one run, which nothing trained."""


def convert_own(
    asked: OwnNetwork,
    trials_with: Callable[[int], NetworkTrials],
    out: Path,
    *,
    command: str,
    jobs: int,
    device: str,
    console: Console,
) -> tuple[Path, int]:
    """Do the trials that are missing with a user's network, in the folder of a study.

    Args:
        trials_with: from the number of images to calibrate with to the trials.

    Returns:
        The page of the report, and how many trials failed.

    Raises:
        PlanError: `out` holds another study, or images are too few.
        ValueError, DataError: as `OwnTeacher`.
        StoreError, LockedError: as `run_study`.
    """
    check_study_place(out)
    folder = run_folder(out, RUN)
    with locked_folder(out, f"another study is at work in {out}; wait for it, or name another"):
        before = read_own_network(folder)
        begun = (out / "study.json").exists() if before is None else before.asked != asked
        if begun:
            raise PlanError(f"{out} holds another study; choose another --out")
        # what is wrong is found before anything is written
        teacher = OwnTeacher(asked, device, None if before is None else before.digest)
        for note in teacher.notes:
            print_line(console, f"note: {note}")
        if before is None:
            _write_run(folder, asked, teacher)
        trials = trials_with(teacher.images)
        cell = Cell({"network": asked.network}, 0, RUN)
        write_atomic(out / "study.json", to_json(_manifest(asked, cell, trials, command)))
        failed = convert_teachers(
            out, [cell], {asked.network: trials}, jobs=jobs, device=device,
            data_root=None, console=console,
        )  # fmt: skip
        return build_report(out), failed


def _write_run(folder: Path, asked: OwnNetwork, teacher: OwnTeacher) -> None:
    """The record of a run that is finished: what the network is, and its result."""
    record = OwnRecord(asked, teacher.digest, teacher.notes)
    value = teacher.score(teacher.network).value
    env = {
        **environment(),
        "metrics": [asdict(asked.metric)],
        "parameters": sum(p.numel() for p in teacher.network.parameters()),
        "data_notes": list(teacher.notes),  # which the report shows
    }
    write_atomic(folder / "env.json", to_json(env))
    write_metrics(folder, [{"epoch": 1, asked.metric.name: value}])
    write_atomic(folder / "DONE", to_json({"status": "finished", "reason": None}))
    write_atomic(folder / OWN_FILE, to_json(record.as_json()))


def _manifest(asked: OwnNetwork, cell: Cell, trials: NetworkTrials, command: str) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "study": "convert",
        "title": f"Conversions of {asked.network}",
        "command": command,
        "protocol": NO_TRAINING,
        "scale": None,
        "data": {"name": asked.images, "test": asked.held_out},
        "options": {},
        "cells": [{"labels": cell.labels, "seed": cell.seed, "run": cell.run}],
        "skipped": [],
        "shows": "conversions",
        "published": [],
        "versions": {key: value for key, value in software().items() if key != "kernels"},
        "conversions": {asked.network: trials.as_json()},
    }
