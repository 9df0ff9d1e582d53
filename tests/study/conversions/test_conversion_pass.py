"""The pass over all teachers: what it skips, what it reuses, and what it says."""

import io
import json

import pytest
from rich.console import Console

from groupnorm.study.conversions import conversion_pass
from groupnorm.study.conversions.conversion_pass import convert_teachers
from groupnorm.study.conversions.records import write_failure, write_result
from groupnorm.study.conversions.trial import NetworkTrials, Trial
from groupnorm.study.store import read_cells, read_manifest, run_folder
from tests.study.fake_conversions import NETWORKS, conversion_study, fake_result
from tests.study.fake_store import spoil

TRIALS = {name: NetworkTrials((Trial("teacher"), Trial("reset", "gn"))) for name in NETWORKS}


@pytest.fixture
def out(tmp_path):
    """A study with two networks and two seeds, without any trial."""
    out = conversion_study(tmp_path)
    for path in out.glob("runs/*/trials/*.json"):
        path.unlink()
    return out


@pytest.fixture
def processes(monkeypatch):
    """Stands for the processes: `done[name]` trials of a run are done before its process ends."""

    class Processes:
        def __init__(self):
            self.done, self.asked, self.fails, self.names = {}, {}, None, []

        def run(self, names, launch, on_event, ended, *, jobs, threads):
            for name in names:
                launch(self, name)
                self.names.append(name)
                run = self.folder.name
                for values in self.asked[run][: self.done.get(run, 99)]:
                    trial = Trial.from_json(values)
                    reason = "ValueError: made up" if trial.method == self.fails else None
                    if reason:
                        write_failure(self.folder, trial, reason)
                    else:
                        write_result(self.folder, trial, fake_result(trial, 80.0, 0))
                    event = {"event": "trial", "trial": trial.name, "reason": reason}
                    on_event(name, json.loads(json.dumps(event)))
                ended(name, "its process was killed")

        def launch(self, folder, *, device, data_root, conversions):
            self.folder, self.asked[folder.name] = folder, conversions

    found = Processes()
    monkeypatch.setattr(conversion_pass, "run_processes", found.run)
    return found


def convert(out, jobs=2):
    """How many trials failed, and what was said."""
    stream = io.StringIO()
    failed = convert_teachers(
        out, read_cells(read_manifest(out)), TRIALS, jobs=jobs, device="cpu",
        data_root=None, console=Console(file=stream, width=200),
    )  # fmt: skip
    return failed, stream.getvalue()


def test_a_process_for_each_run_seed_by_seed(out, processes):
    failed, text = convert(out)
    assert failed == 0
    assert list(processes.asked) == ["network0-s0", "network1-s0", "network0-s1", "network1-s1"]
    assert text.startswith("8 trials of conversions: 0 reused, 8 to do\n")
    assert "MobileNet, made up, seed 1: 2 trials done" in text
    processes.asked.clear()
    assert convert(out) == (0, "8 trials of conversions: 8 reused, 0 to do\n")
    assert not processes.asked


def test_a_killed_process_loses_what_it_did_not_come_to(out, processes):
    processes.done = {"network0-s0": 1}
    failed, text = convert(out)
    assert failed == 1
    assert "seed 0: 1 trial done; 1 trial not done: its process was killed" in text
    processes.done, processes.asked = {}, {}
    failed, text = convert(out)
    assert (failed, text.splitlines()[0]) == (0, "8 trials of conversions: 7 reused, 1 to do")
    assert [values["method"] for values in processes.asked["network0-s0"]] == ["reset"]


def test_failed_trials_are_counted_named_and_tried_again(out, processes):
    processes.fails = "reset"
    failed, text = convert(out)
    assert failed == 4
    assert "failed: ValueError: made up" in text
    processes.fails = None
    assert convert(out)[1].startswith("8 trials of conversions: 4 reused, 4 to do\n")


def test_runs_that_did_not_finish_are_left_out(out, processes):
    spoil(run_folder(out, "network1-s0"), "diverged", "loss nan")
    _, text = convert(out)
    assert "0 reused, 6 to do, 2 of networks that did not finish are left out" in text
    assert "network1-s0" not in processes.asked


def test_a_run_is_divided_where_there_are_fewer_runs_than_jobs(out, processes):
    assert convert(out, jobs=8)[0] == 0
    assert len(processes.names) == 8
    processes.names.clear()
    path = next((out / "runs" / "network1-s0" / "trials").iterdir())
    path.unlink()
    convert(out, jobs=8)
    assert processes.names == ["network1-s0, part 0"]
