"""The command line through real processes, as a user types it."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from types import SimpleNamespace

import pytest

from groupnorm.files import LockedError, locked
from groupnorm.study.store import Record
from tests.cli.commands import command, groupnorm, typed

TINY = [
    "--data",
    "digits",
    "--seeds",
    "1",
    "--epochs",
    "2",
    "--norms",
    "bn,gn:groups=4,gn:groups=4+ws",
]

pytestmark = pytest.mark.xdist_group("study")  # which is made once


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = tmp_path_factory.mktemp("study") / "out"
    done = groupnorm("study", "batch-size", *TINY, "--batch-sizes", "32,2", "--out", out)
    return out, done


@pytest.mark.slow
def test_a_study_from_beginning_to_end(study):
    out, done = study
    assert "6 cells, 4 distinct runs" in done.stdout
    assert "epoch 2/2" in done.stdout
    assert "left" in done.stdout
    assert f"report: {out}/report.html" in done.stdout
    for name in ("study.json", "report.html", "tables.csv"):
        assert (out / name).stat().st_size > 0
    assert len(list((out / "figures").glob("*.svg"))) >= 3
    assert len(list((out / "figures").glob("*.png"))) == len(list((out / "figures").glob("*.svg")))
    for run in (out / "runs").iterdir():
        for name in ("config.json", "env.json", "metrics.jsonl", "checkpoint.pt", "DONE"):
            assert (run / name).exists(), run / name
    cost = json.loads((out / "cost.json").read_text())
    assert sorted(name for found in cost["configurations"] for name in found["runs"]) == sorted(
        path.name for path in (out / "runs").iterdir()
    )
    assert all(found["forward_ms_per_image"] > 0 for found in cost["configurations"])
    assert "timing a training step of 4 configurations in turns" in done.stdout
    manifest = json.loads((out / "study.json").read_text())
    assert manifest["command"].startswith("groupnorm study batch-size --data digits")
    for norm in ("bn", "gn:groups=4", "gn:groups=4+ws"):
        assert norm in done.stdout


@pytest.mark.slow
def test_the_report_is_rebuilt_byte_for_byte(study):
    out, _ = study
    files = sorted(p for p in out.rglob("*") if p.suffix in (".html", ".csv", ".svg", ".png"))
    before = {path: path.read_bytes() for path in files}
    for path in files:
        path.unlink()
    typed("report", out)
    assert {path: path.read_bytes() for path in files} == before


@pytest.mark.slow
def test_report_as_json(study):
    found = json.loads(typed("report", study[0], "--json").stdout)
    assert [row["norm"] for row in found["rows"]].count("bn") == 2
    assert all(0 < row["error"] < 100 for row in found["rows"])


@pytest.mark.slow
def test_a_second_start_trains_nothing(study):
    out, _ = study
    marks = {p: p.stat().st_mtime_ns for p in out.glob("runs/*/checkpoint.pt")}
    done = groupnorm("study", "batch-size", *TINY, "--batch-sizes", "32,2", "--out", out)
    assert done.stdout.count("finished before") == 4
    assert {p: p.stat().st_mtime_ns for p in out.glob("runs/*/checkpoint.pt")} == marks


@pytest.mark.slow
def test_other_data_in_the_same_folder_is_refused(study):
    other = ["--data", "fashion-mnist-mini", "--epochs", "2", "--out", study[0]]
    done = typed("study", "batch-size", *other)
    assert done.returncode == 2
    assert "holds a study of other data, digits" in done.stderr


def test_cuda_without_a_gpu_is_refused(tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = typed("study", "batch-size", "--device", "cuda", cwd=tmp_path)
    assert done.returncode == 2
    assert "no CUDA device" in done.stderr


@pytest.mark.parametrize("stop", [True, False])
def test_what_is_left_after_a_failure_is_said(monkeypatch, tmp_path, stop):
    given = {}

    def run_study(plan, out, **options):
        given.update(options)
        states = ("finished", "failed", "partial", "missing")
        records = [Record(status, status, None, {}, {}, []) for status in states]
        return SimpleNamespace(report=out / "report.html", records=records)

    monkeypatch.setattr("groupnorm.study.run_study", run_study, raising=False)
    monkeypatch.setattr("groupnorm.cli.study.print_main_table", lambda out: None)
    option = ["--stop-at-first-failure"] if stop else []
    done = typed("study", "norms", "--data", "digits", "--out", tmp_path / "s", *option)
    assert done.returncode == 2
    assert given["stop_at_first_failure"] is stop
    assert "1 of 4 runs failed; the report says why." in done.stderr
    assert ("2 others were stopped, or not begun." in done.stderr) is stop
    assert "The same command tries again and goes on." in done.stderr


@pytest.mark.slow
def test_interrupted_it_says_how_to_go_on_and_then_does(tmp_path):
    arguments = ["study", "batch-size", *TINY, "--batch-sizes", "8", "--out", "s", "--epochs", "15"]
    with subprocess.Popen(
        [command(), *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # a shell's background job ignores Ctrl-C, and its children with it: not what is tested
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        read_until(process, "epoch 1/")
        with pytest.raises(LockedError), locked(tmp_path / "s" / ".lock", "at work"):
            pass
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "To continue: groupnorm study batch-size" in said
    assert "Traceback" not in said
    done = groupnorm(*arguments, cwd=tmp_path)
    assert "report:" in done.stdout
    assert len(list(tmp_path.glob("s/runs/*/DONE"))) == 3


@pytest.mark.slow
def test_a_second_start_on_the_same_folder_is_refused(study, tmp_path):
    shutil.copytree(study[0], tmp_path / "s")
    with locked(tmp_path / "s" / ".lock", "at work"):
        refused = typed(
            "study", "batch-size", *TINY, "--batch-sizes", "32,2", "--out", tmp_path / "s"
        )
    assert refused.returncode == 2
    assert "another study is at work" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.slow
def test_a_study_grows_and_shrinks_on_its_folder(tmp_path):
    """Killed half-way through its growth, too."""
    start = ["study", "norms", "--data", "digits", "--epochs", "2", "--out", "s"]
    first = groupnorm(*start, "--norms", "in,ln", "--seeds", "1", cwd=tmp_path)
    assert "2 runs: 0 reused, 0 continued, 2 to train" in first.stdout
    kept = marks(tmp_path)
    more = [*start, "--norms", "gn:groups=4,in,ln", "--seeds", "0,7"]
    with subprocess.Popen(
        [command(), *more], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as process:
        read_until(process, "finished, error")
        process.kill()
    done = groupnorm(*more, cwd=tmp_path)
    assert re.search("6 runs: [345] reused", done.stdout)
    assert kept.items() <= marks(tmp_path).items()
    assert len(list(tmp_path.glob("s/runs/*/DONE"))) == 6
    cells = json.loads((tmp_path / "s" / "study.json").read_text())["cells"]
    assert [(c["labels"]["norm"], c["seed"]) for c in cells] == [
        (norm, seed) for norm in ("gn:groups=4", "in", "ln") for seed in (0, 7)
    ]
    timed = json.loads((tmp_path / "s" / "cost.json").read_text())["configurations"]
    assert sum(len(found["runs"]) for found in timed) == 6
    fewer = groupnorm(*start, "--norms", "in", "--seeds", "0,7", cwd=tmp_path)
    assert "2 runs: 2 reused, 0 continued, 0 to train" in fewer.stdout
    assert "4 runs of the command before" in fewer.stdout
    longer = [*start[:-4], "--epochs", "1", "--out", "s", "--norms", "in", "--seeds", "1"]
    longer = groupnorm(*longer, cwd=tmp_path)
    assert "1 run: 0 reused" in longer.stdout
    assert len(list(tmp_path.glob("s/runs/*/DONE"))) == 7


def marks(folder):
    return {p: p.stat().st_mtime_ns for p in folder.glob("s/runs/*/checkpoint.pt")}


def read_until(process, text):
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"the process ended without saying {text!r}")


@pytest.mark.slow
def test_a_study_killed_with_its_trials_goes_on(tmp_path):
    arguments = ["study", "norms", "--data", "digits", "--norms", "in,ln", "--epochs", "15"]
    with subprocess.Popen(
        [command(), *arguments, "--out", "s"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as process:
        read_until(process, "epoch 2/")
        process.kill()
    time.sleep(1)
    groupnorm(*arguments, "--out", "s", cwd=tmp_path)
    groupnorm(*arguments, "--out", "whole", cwd=tmp_path)
    for run in (tmp_path / "whole" / "runs").iterdir():
        assert metrics(run) == metrics(tmp_path / "s" / "runs" / run.name)


@pytest.mark.slow
def test_a_tuned_study_killed_while_it_tries_and_while_it_trains_ends_the_same(tmp_path):
    arguments = ["study", "norms", "data=digits", "norms=in,ln", "epochs=3", "train_images=128"]
    tuned = [*arguments, "tune=base_lr=0.1,0.4"]
    arguments = [*tuned, "seeds=1"]
    for word in ("epoch 2/", "chosen: 2 runs"):
        with subprocess.Popen(
            [command(), *arguments, "--out", "s"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
        ) as process:
            read_until(process, word)
            process.kill()
        time.sleep(1)
    groupnorm("report", "s", cwd=tmp_path)
    assert "Values of base_lr chosen: in, 32" in (tmp_path / "s" / "report.html").read_text()
    groupnorm(*arguments, "--out", "s", cwd=tmp_path)
    groupnorm(*arguments, "--out", "whole", cwd=tmp_path)
    names = sorted(path.name for path in (tmp_path / "whole" / "runs").iterdir())
    assert len(names) == 6
    assert names == sorted(path.name for path in (tmp_path / "s" / "runs").iterdir())
    for name in names:
        assert metrics(tmp_path / "whole/runs" / name) == metrics(tmp_path / "s/runs" / name)
    before, after = (
        json.loads((tmp_path / folder / "study.json").read_text()) for folder in ("whole", "s")
    )
    assert before["cells"] == after["cells"]
    grown = groupnorm(*tuned, "seeds=2", "--out", "s", cwd=tmp_path)
    assert "trying" not in grown.stdout, "more seeds tune nothing again"
    assert "with the base_lr chosen: 4 runs: 2 reused" in grown.stdout


def metrics(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{**json.loads(line), "timing": None} for line in lines]
