"""`--cluster` and `--track` as a user types them; the two-node cluster is in tests/study."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import psutil
import pytest

from tests.cli.commands import command, groupnorm, typed
from tests.cli.test_study import metrics, read_until
from tests.study.runners.test_track import epochs_in

TINY = ["study", "norms", "--data", "digits", "--seeds", "1", "--norms", "in,ln", "--epochs", "6"]


@pytest.mark.slow
def test_a_study_on_a_ray_of_its_own_is_stopped_and_goes_on_without_it(tmp_path):
    temporary = tempfile.mkdtemp(prefix="gn-")  # short: Ray's sockets go there
    with subprocess.Popen(
        [command(), *TINY, "--cluster", "--out", "s", "--track", "tensorboard"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "TMPDIR": temporary},
        # a shell's background job ignores Ctrl-C, and its children with it: not what is tested
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        read_until(process, "cluster local: 1 node")
        read_until(process, "epoch 2/6")
        family = psutil.Process(process.pid).children(recursive=True)
        assert any("raylet" in one.name() for one in family)
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "To continue: groupnorm study norms" in errors
    assert "Traceback" not in errors
    assert "raylet" not in said + errors
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []
    left = [path.name for path in Path(temporary).iterdir()]
    assert not [name for name in left if name.startswith(("ray-", "groupnorm-trial-"))]
    shutil.rmtree(temporary)
    assert list(tmp_path.glob("s/runs/*/checkpoint.pt"))

    groupnorm(*TINY, "--out", "s", "--track", "tensorboard", cwd=tmp_path)
    groupnorm(*TINY, "--out", "whole", cwd=tmp_path)
    for run in (tmp_path / "whole" / "runs").iterdir():
        assert metrics(run) == metrics(tmp_path / "s" / "runs" / run.name)
        assert epochs_in(tmp_path / "s" / "tensorboard" / run.name) == [2, 4, 6]
    assert not (tmp_path / "whole" / "tensorboard").exists()


@pytest.mark.slow
def test_a_tuned_study_goes_through_its_stages_on_a_cluster(tmp_path):
    """And makes of the same choice the same runs as without one."""
    tuned = ["study", "norms", "--data", "digits", "--norms", "ln", "--seeds", "1", "--epochs", "1"]
    tuned += ["--train-images", "64", "--tune", "base_lr=0.1,0.4"]
    said = groupnorm(*tuned, "--cluster", "--out", "s", cwd=tmp_path).stdout
    assert said.count("cluster local: 1 node") == 2  # a Ray for each stage
    assert "trying values of base_lr: 2 runs" in said
    groupnorm(*tuned, "--out", "whole", cwd=tmp_path)
    runs = {run.name for run in (tmp_path / "whole" / "runs").iterdir()}
    assert len(runs) == 3
    assert {run.name for run in (tmp_path / "s" / "runs").iterdir()} == runs
    for name in runs:
        assert metrics(tmp_path / "s" / "runs" / name) == metrics(
            tmp_path / "whole" / "runs" / name
        )
    cells, whole = (json.loads((tmp_path / out / "study.json").read_text())["cells"]
                    for out in ("s", "whole"))  # fmt: skip
    assert cells == whole


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--cpus-per-trial", "2"], "--cpus-per-trial goes with --cluster"),
        (["--gpus-per-trial", "1"], "--gpus-per-trial goes with --cluster"),
        (["--cluster", "--cpus-per-trial", "0"], "at least 1 CPU"),
        (["--cluster", "--device", "cuda", "--gpus-per-trial", "0"], "above 0"),
        pytest.param(
            ["--cluster", "127.0.0.1:1"],
            "no cluster answers at 127.0.0.1:1",
            marks=pytest.mark.slow,
        ),
        (["--cluster", "somewhere"], "--cluster takes local, auto, HOST:PORT"),
        (["--track", "wandb"], "--track takes tensorboard"),
    ],
)
def test_what_cannot_be_is_said_in_words(arguments, told, tmp_path):
    done = typed(*TINY, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("*/runs/*/metrics.jsonl"))


@pytest.mark.slow
def test_train_writes_curves_once_however_often_it_is_started(tmp_path):
    settings = ["data=digits", "norm=gn:groups=4", "model=resnet8", "width=0.25"]
    settings += ["workers=2", "batch_per_worker=16", "epochs=2", "--json", "--out", tmp_path / "r"]
    for _ in range(2):
        done = groupnorm("train", *settings, "--track", "tensorboard")
    assert json.loads(done.stdout.splitlines()[-1])["epoch"] == 2
    (folder,) = (tmp_path / "r" / "tensorboard").iterdir()
    assert epochs_in(folder) == [1, 2]
    without = groupnorm("train", *settings[:-2], "--track", "tensorboard", check=False)
    assert without.returncode == 2
    assert "--track needs --out" in without.stderr
