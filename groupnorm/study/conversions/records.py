"""What the store holds of trials: a JSON file for each, below the folder of its teacher's run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from groupnorm.files import write_atomic
from groupnorm.study import schema
from groupnorm.study.conversions.trial import Trial
from groupnorm.study.store.json_files import FORMAT, read_checked, refuse, to_json

TRIALS = "trials"
"""The folder of a run's trials."""


def trial_path(run: Path, trial: Trial) -> Path:
    """The file of a trial.

    Args:
        run: the folder of the teacher's run.
    """
    return run / TRIALS / f"{trial.name}.json"


def write_result(run: Path, trial: Trial, result: dict[str, Any]) -> None:
    """Record what a trial gave: `schema.TrialResult`."""
    _write(run, trial, result=result, reason=None)


def write_failure(run: Path, trial: Trial, reason: str) -> None:
    """Record why a trial gave nothing; the next start tries it again."""
    _write(run, trial, result=None, reason=reason)


def read_trial(run: Path, trial: Trial) -> dict[str, Any] | None:
    """What is recorded of a trial: its `result`, or the `reason` why there is none.

    Returns:
        None for a trial that was not done yet.

    Raises:
        StoreError: the file is damaged, or is of another trial.
    """
    path = trial_path(run, trial)
    found = read_checked(path, schema.TrialRecord, versioned=True)
    if found is None:
        return None
    if found["trial"] != trial.as_json():
        refuse(path, "is not of the trial that the file is named after: it was changed")
    if (found["result"] is None) == (found["reason"] is None):
        refuse(path, "has neither a result nor a reason why there is none, or both")
    return found


def is_done(run: Path, trial: Trial) -> bool:
    """Whether a trial has its result."""
    found = read_trial(run, trial)
    return found is not None and found["result"] is not None


def _write(run: Path, trial: Trial, **found: Any) -> None:
    path = trial_path(run, trial)
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, to_json({"format": FORMAT, "trial": trial.as_json(), **found}))
