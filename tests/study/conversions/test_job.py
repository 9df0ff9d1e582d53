"""The trials of a teacher: each is recorded when it is done, and one that fails costs itself."""

import shutil

import pytest

from groupnorm.study.conversions import job
from groupnorm.study.conversions.job import run_trials_of
from groupnorm.study.conversions.records import read_trial
from groupnorm.study.conversions.trial import LABELS, Trial

TRIALS = [
    Trial("teacher"),
    Trial("reset", "gn:groups=2"),
    Trial("copy", "gn:groups=2", 1, 0, 2, LABELS, 1e-3),
]


@pytest.fixture
def folder(teacher_run, tmp_path):
    return shutil.copytree(teacher_run, tmp_path / "run")


def run(folder, trials=TRIALS):
    told = []
    run_trials_of(
        folder, trials, threads=1, device="cpu", data_root=None,
        on_trial=lambda trial, reason: told.append((trial, reason)),
    )  # fmt: skip
    return told


def test_each_is_recorded(folder):
    assert run(folder) == [(trial, None) for trial in TRIALS]
    teacher, reset, copied = (read_trial(folder, trial)["result"] for trial in TRIALS)
    assert (teacher["agreement"], teacher["layers"]) == (100.0, [])
    assert [layer["groups"] for layer in reset["layers"]] == [2] * 7
    assert (reset["held_out"], reset["skipped"]) == (None, [])
    assert 0 <= copied["held_out"] <= 100


def test_one_that_fails_is_named_and_the_others_go_on(folder, monkeypatch, capsys):
    whole = job.converted

    def converted(teacher, trial):
        if trial.method == "reset":
            raise KeyError("made up")
        return whole(teacher, trial)

    monkeypatch.setattr(job, "converted", converted)
    assert [reason for _, reason in run(folder)] == [None, "KeyError: 'made up'", None]
    assert read_trial(folder, TRIALS[1])["reason"] == "KeyError: 'made up'"
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.undo()
    assert run(folder, TRIALS[1:2]) == [(TRIALS[1], None)]


def test_a_full_disk_ends_the_process(folder, monkeypatch):
    def write(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(job, "write_result", write)
    with pytest.raises(OSError, match="No space left"):
        run(folder)
