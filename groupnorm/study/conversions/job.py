"""What one process does: the trials of one teacher, one after the other."""

from __future__ import annotations

import copy
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from groupnorm.conversion import ConversionReport
from groupnorm.files import first_line
from groupnorm.memory import keep_large_blocks
from groupnorm.study.conversions.finetuning import fine_tune
from groupnorm.study.conversions.methods import Converted, converted
from groupnorm.study.conversions.own_network import OwnTeacher, read_own_network
from groupnorm.study.conversions.records import write_failure, write_result
from groupnorm.study.conversions.teacher import RunTeacher, Teacher
from groupnorm.study.conversions.trial import Trial


def run_trials_of(
    folder: Path,
    trials: Sequence[Trial],
    *,
    threads: int,
    device: str,
    data_root: Path | None,
    on_trial: Callable[[Trial, str | None], None],
) -> None:
    """Do the trials of the teacher in `folder`, and record each when it is done.

    One that fails is recorded with its reason.

    Args:
        on_trial: called after each with None or the reason.

    Raises:
        CheckpointError, StoreError, DataError, ValueError: as `RunTeacher` and `OwnTeacher`.
    """
    keep_large_blocks()
    torch.set_num_threads(threads)
    teacher: Teacher
    if (own := read_own_network(folder)) is not None:
        teacher = OwnTeacher(own.asked, device, own.digest)
    else:
        teacher = RunTeacher(folder, device, data_root)
    latest = _Latest(teacher)
    for trial in trials:
        reason = None
        try:
            write_result(folder, trial, _result(teacher, latest, trial))
        except OSError:  # of the disk: the next trial would meet it, too
            raise
        except Exception as error:
            traceback.print_exc()  # into the run's log
            reason = f"{type(error).__name__}: {first_line(error)}"
            write_failure(folder, trial, reason)
        on_trial(trial, reason)


class _Latest:
    """Converts, and has the latest conversion again for the trials that fine-tune it."""

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher
        self._trial: Trial | None = None
        self._converted: Converted | None = None

    def __call__(self, trial: Trial) -> Converted:
        if trial != self._trial or self._converted is None:
            self._trial, self._converted = trial, converted(self._teacher, trial)
        return copy.deepcopy(self._converted)


def _result(teacher: Teacher, latest: _Latest, trial: Trial) -> dict[str, Any]:
    """What a trial gives, as `schema.TrialResult` has it."""
    begun = time.perf_counter()
    network, report = latest(trial.converted)
    if trial.steps:
        assert isinstance(teacher, RunTeacher)
        fine_tune(network, teacher, trial)
    seconds = time.perf_counter() - begun
    score = teacher.score(network, held_out=trial.steps > 0)
    return {
        **score._asdict(),
        "layers": _layers(report),
        "skipped": [] if report is None else [vars(row) for row in report.skipped],
        "seconds": round(seconds, 3),
    }


def _layers(report: ConversionReport | None) -> list[dict[str, Any]]:
    return [] if report is None else [
        {
            "name": row.name,
            "channels": row.channels,
            "groups": row.groups,
            "error": row.error,
            "offset_share": row.offset_share,
        }
        for row in report.layers
    ]  # fmt: skip
