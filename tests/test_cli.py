"""The command line through real processes, as a user types it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from groupnorm.cli import split_norms
from groupnorm.files import LockedError, locked

TINY = ["--data", "digits", "--epochs", "2", "--norms", "bn,gn:groups=4,gn:groups=4+ws"]


def command():
    """The installed `groupnorm` command beside this Python, or the one on the path."""
    beside = Path(sys.executable).with_name("groupnorm")
    found = str(beside) if beside.exists() else shutil.which("groupnorm")
    assert found, "install the package first: pip install -e '.[test]'"
    return found


def groupnorm(*arguments, cwd=None, check=True):
    done = subprocess.run(
        [command(), *map(str, arguments)], capture_output=True, text=True, cwd=cwd, timeout=600
    )
    if check:
        assert done.returncode == 0, done.stderr + done.stdout
    return done


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = tmp_path_factory.mktemp("study") / "out"
    done = groupnorm("study", "batch-size", *TINY, "--batch-sizes", "32,2", "--out", out)
    return out, done


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
    manifest = json.loads((out / "study.json").read_text())
    assert manifest["command"].startswith("groupnorm study batch-size --data digits")
    for norm in ("bn", "gn:groups=4", "gn:groups=4+ws"):
        assert norm in done.stdout


def test_the_report_is_rebuilt_byte_for_byte(study):
    out, _ = study
    files = sorted(p for p in out.rglob("*") if p.suffix in (".html", ".csv", ".svg", ".png"))
    before = {path: path.read_bytes() for path in files}
    for path in files:
        path.unlink()
    groupnorm("report", out)
    assert {path: path.read_bytes() for path in files} == before


def test_report_as_json(study):
    rows = json.loads(groupnorm("report", study[0], "--json").stdout)
    assert len(rows) >= 3
    assert any("bn" in str(row) for row in rows)


def test_a_second_start_trains_nothing(study):
    out, _ = study
    marks = {p: p.stat().st_mtime_ns for p in out.glob("runs/*/checkpoint.pt")}
    done = groupnorm("study", "batch-size", *TINY, "--batch-sizes", "32,2", "--out", out)
    assert done.stdout.count("finished before") == 4
    assert {p: p.stat().st_mtime_ns for p in out.glob("runs/*/checkpoint.pt")} == marks


def test_another_study_in_the_same_folder_is_refused(study):
    out, _ = study
    done = groupnorm(
        "study", "batch-size", *TINY, "--batch-sizes", "32,4", "--out", out, check=False
    )
    assert done.returncode == 2
    assert "holds another study" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["study", "batch-size", "--norms", "bn,xn"], "unknown normalization 'xn'; known kinds"),
        (["study", "batch-size", "--data", "imagenet"], "unknown data set 'imagenet'"),
        (["study", "batch-size", "--batch-sizes", "32,x"], "whole numbers, as 32,8,2"),
        (["study", "batch-size", "--batch-sizes", "7"], "64 images of a step, 7 does not"),
        (["study", "batch-size", "--protocol", "papr"], "'fixed-step' or 'paper'"),
        (["study", "batch-size", "--scale", "huge"], "'quick', 'standard' or 'paper'"),
        (["study", "batch-size", "--model", "vgg19"], "unknown model 'vgg19'"),
        (["study", "batch-size", "--epochs", "0"], "at least 1, got 0"),
        (["study", "batch-size", "--jobs", "0"], "jobs must be at least 1"),
        (["study", "batch-size", "--data", "cifar10", "--data-root", "."], "cifar-10-batches-py"),
        (["study", "norms", "--batch-sizes", "8,2"], "one batch size"),
        (["report", "."], "holds no study"),
        (["train", "norm=gn", "epochs=1", "lr=3"], "lr"),
        (["train", "norm=gn"], "exactly one"),
        (["train", "norm"], "KEY=VALUE, got 'norm'"),
        (["train", "--config", "none.json"], "none.json"),
    ],
)
def test_bad_input_is_answered_in_words(arguments, message, tmp_path):
    done = groupnorm(*arguments, cwd=tmp_path, check=False)
    assert done.returncode == 2, done.stdout
    assert message in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert not list(tmp_path.rglob("checkpoint.pt"))


def test_cuda_without_a_gpu_is_refused(tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = groupnorm("study", "batch-size", "--device", "cuda", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "no CUDA device" in done.stderr


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


def test_a_second_start_on_the_same_folder_is_refused(study, tmp_path):
    shutil.copytree(study[0], tmp_path / "s")
    with locked(tmp_path / "s" / ".lock", "at work"):
        refused = groupnorm(
            "study", "batch-size", *TINY, "--batch-sizes", "32,2", "--out", tmp_path / "s",
            check=False,
        )  # fmt: skip
    assert refused.returncode == 2
    assert "another study is at work" in refused.stderr
    assert "Traceback" not in refused.stderr


def read_until(process, text):
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"the process ended without saying {text!r}")


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


def metrics(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{**json.loads(line), "timing": None} for line in lines]


def test_train_prints_epochs_as_json_and_continues(tmp_path):
    settings = ["data=digits", "norm=gn:groups=4", "model=resnet8", "width=0.25"]
    settings += ["workers=2", "batch_per_worker=16", "epochs=2"]
    done = groupnorm("train", *settings, "--json", "--out", tmp_path / "run")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert (tmp_path / "run" / "DONE").exists()
    done = groupnorm("train", *settings[:-1], "epochs=3", "--out", tmp_path / "run", check=False)
    assert done.returncode == 2
    assert "holds another run" in done.stderr


def test_doctor(tmp_path):
    found = json.loads(groupnorm("doctor", "--json", cwd=tmp_path).stdout)
    assert found["versions"]["torch"]
    assert {b["name"] for b in found["backends"]} >= {"aten", "reference"}
    sets = {entry["name"]: entry for entry in found["data"]}
    assert sets["digits"]["found"]
    assert sets["fashion-mnist-mini"]["found"]
    words = groupnorm("doctor", cwd=tmp_path).stdout
    for name in ("torch", "aten", "fashion-scenes", "cifar10"):
        assert name in words


@pytest.mark.parametrize(
    "arguments",
    [[], ["study"], ["study", "batch-size"], ["study", "norms"], ["study", "groups"],
     ["train"], ["report"], ["doctor"]],
)  # fmt: skip
def test_help(arguments):
    assert "Usage" in groupnorm(*arguments, "--help").stdout


@pytest.mark.parametrize(
    ("text", "specs"),
    [
        ("bn", ("bn",)),
        ("bn,gn", ("bn", "gn")),
        ("gn:groups=8,eps=1e-6+ws,in", ("gn:groups=8,eps=1e-6+ws", "in")),
        ("bn:eps=1e-3,affine=false, ln", ("bn:eps=1e-3,affine=false", "ln")),
        ("bn,xn", ("bn", "xn")),
    ],
)
def test_split_norms(text, specs):
    assert split_norms(text) == specs
