"""The runner: parallel trials, a failure that costs one cell, stopping and going on."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from groupnorm.study.runners.local import run_trials
from groupnorm.study.store import read_record, run_folder
from groupnorm.training.config import RunConfig


class Log:
    def __init__(self):
        self.events = []

    def started(self, name, config):
        self.events.append(("started", name))

    def stepped(self, name, step, total):
        self.events.append(("stepped", name))

    def epoch(self, name, metrics):
        self.events.append(("epoch", name, metrics["epoch"]))

    def ended(self, name, status, reason):
        self.events.append(("ended", name, status, reason))

    def count(self, kind):
        return sum(event[0] == kind for event in self.events)


def config(**fields):
    defaults = {"model": "resnet8", "width": 0.25, "data": "digits", "epochs": 2, "norm": "gn"}
    return RunConfig(**{**defaults, "workers": 8, "batch_per_worker": 4, **fields})


def configs(*changes):
    made = [config(**change) for change in changes]
    return {c.run_name(): c for c in made}


def run(out, runs, **options):
    log = Log()
    records = run_trials(out, runs, log, **{"jobs": 2, "threads": 1, **options})
    return records, log


@pytest.mark.slow
def test_trials_run_and_a_second_start_does_nothing(tmp_path):
    runs = configs({"seed": 0}, {"seed": 1}, {"norm": "none", "base_lr": 1e6})
    records, log = run(tmp_path, runs)
    assert [record.status for record in records] == ["finished", "finished", "diverged"]
    assert [len(record.metrics) for record in records[:2]] == [2, 2]
    assert "loss" in records[2].reason
    assert log.count("started") == 3
    again, log = run(tmp_path, runs)
    assert log.count("started") == 0
    assert again == records


@pytest.mark.slow
def test_a_failure_costs_one_cell_and_is_tried_again(tmp_path):
    """A damaged checkpoint makes one trial fail; mending it lets the next start finish."""
    runs = configs({"seed": 0}, {"seed": 1})
    broken = run_folder(tmp_path, next(iter(runs)))
    broken.mkdir(parents=True)
    (broken / "checkpoint.pt").write_bytes(b"no checkpoint")
    records, _ = run(tmp_path, runs)
    assert [record.status for record in records] == ["failed", "finished"]
    assert "checkpoint.pt does not end with a digest" in records[0].reason
    (broken / "checkpoint.pt").unlink()
    records, log = run(tmp_path, runs)
    assert [record.status for record in records] == ["finished", "finished"]
    assert log.count("started") == 1


@pytest.mark.slow
def test_a_killed_trial_is_a_failed_cell_with_its_reason(tmp_path):
    class Killer(Log):
        def stepped(self, name, step, total):
            if "s1" in name:
                os.kill(trials_of(tmp_path)[name], signal.SIGKILL)

    runs = configs({"seed": 0}, {"seed": 1, "epochs": 500})
    records = run_trials(tmp_path, runs, Killer(), jobs=2, threads=1)
    assert [record.status for record in records] == ["finished", "failed"]
    assert "killed by signal 9" in records[1].reason


def trials_of(out):
    """The processes that write into the logs of a store: name of the run -> pid."""
    found = {}
    for output in Path("/proc").glob("[0-9]*/fd/1"):
        with contextlib.suppress(OSError):
            log = output.readlink()
            if log.is_relative_to(out / "runs"):
                found[log.parent.name] = int(output.parent.parent.name)
    return found


@pytest.mark.slow
def test_an_interrupt_stops_every_trial(tmp_path):
    class Interrupt(Log):
        def epoch(self, name, metrics):
            raise KeyboardInterrupt

    runs = configs({"seed": 0, "epochs": 500}, {"seed": 1, "epochs": 500})
    with pytest.raises(KeyboardInterrupt):
        run_trials(tmp_path, runs, Interrupt(), jobs=2, threads=1)
    assert trials_of(tmp_path) == {}
    assert read_record(tmp_path, next(iter(runs))).status in ("partial", "missing")


@pytest.mark.slow
def test_no_trial_outlives_a_killed_runner(tmp_path):
    code = (
        "import sys, json; from pathlib import Path\n"
        "from tests.study.runners.test_local import Log, configs\n"
        "from groupnorm.study.runners.local import run_trials\n"
        "run_trials(Path(sys.argv[1]), configs({'epochs': 5000}), Log(), jobs=1, threads=1)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) as runner:
        wait_for(lambda: list(tmp_path.glob("runs/*/metrics.jsonl")))
        assert trials_of(tmp_path)
        runner.kill()
    wait_for(lambda: not trials_of(tmp_path))


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.1)


@pytest.mark.slow
def test_stopped_after_an_epoch_a_run_is_partial_and_goes_on_to_the_same_end(tmp_path):
    runs = configs({"seed": 0}, {"seed": 1})
    whole, _ = run(tmp_path / "whole", runs)
    out = tmp_path / "stages"
    first, log = run(out, runs, stop_epoch=1)
    assert [(r.status, len(r.metrics)) for r in first] == [("partial", 1)] * 2
    assert [e[2:] for e in log.events if e[0] == "ended"] == [("partial", None)] * 2
    assert not list(out.glob("runs/*/FAILED"))
    _, log = run(out, runs, stop_epoch=1)
    assert log.count("started") == 0
    stages, _ = run(out, runs)
    assert [[{**m, "timing": 0} for m in r.metrics] for r in stages] == [
        [{**m, "timing": 0} for m in r.metrics] for r in whole
    ]


@pytest.mark.slow
def test_records_name_the_threads(tmp_path):
    records, _ = run(tmp_path, configs({}), jobs=1, threads=2)
    assert records[0].env["threads"] == 2
    stored = json.loads((run_folder(tmp_path, records[0].name) / "config.json").read_text())
    assert RunConfig(**stored) == config()
