import json
import os
import signal
import subprocess

import pytest
from typer.testing import CliRunner

from groupnorm.cli import app
from groupnorm.study import record
from tests.cli.commands import command, typed
from tests.cli.test_study import read_until

SETTINGS = ["data=digits", "norm=gn:groups=4", "model=resnet8", "width=0.25", "workers=2"]


def test_train_prints_epochs_as_json_and_continues(tmp_path):
    settings = ["data=digits", "norm=gn:groups=4", "model=resnet8", "width=0.25"]
    settings += ["workers=2", "batch_per_worker=16", "epochs=2"]
    done = typed("train", *settings, "--json", "--out", tmp_path / "run")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert (tmp_path / "run" / "DONE").exists()
    done = typed("train", *settings[:-1], "epochs=3", "--out", tmp_path / "run")
    assert done.returncode == 2
    assert "holds another run" in done.stderr


def test_norms_of_places(tmp_path):
    """They go over those of the file, and an unknown place is answered with the known ones."""
    start = {"data": "digits", "model": "resnet8", "width": 0.25, "steps": 1, "workers": 1}
    file = tmp_path / "start.json"
    file.write_text(json.dumps({**start, "norms": {"stage1": "ln", "stage2": "bn"}}))
    given = ["--config", file, "norms.stage2=gn:groups=auto", "norms.stem=in"]
    done = typed("train", *given, "--json", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["norms"] == {"stage1": "ln", "stage2": "gn:groups=auto", "stem": "in"}
    done = typed("train", *given, "norms.stage4=ln")
    assert done.returncode == 2
    assert done.stderr == (
        "error: resnet8 has no place 'stage4'; its places: stem, stage1, stage2, stage3\n"
    )


def test_training_starts_from_another_runs_folder(tmp_path):
    few = [*SETTINGS, "steps=1", "batch_per_worker=8", "train_images=16"]
    assert typed("train", *few, "--out", tmp_path / "first").returncode == 0
    done = typed("train", *few, f"init={tmp_path / 'first'}", "--out", tmp_path / "second")
    assert done.returncode == 0, done.stderr
    env = json.loads((tmp_path / "second" / "env.json").read_text())
    assert env["init"]["loaded"] > 10
    done = typed("train", *few, f"init={tmp_path}", "--out", tmp_path / "third")
    assert done.returncode == 2
    assert done.stderr.startswith("error: init takes the folder of a run")
    done = typed("train", *few, "init=gn-1x256-s0-52d863f086", "--out", tmp_path / "third")
    assert done.returncode == 2
    assert "gn-1x256-s0-52d863f086, which is missing in" in done.stderr


@pytest.mark.parametrize(
    ("validation_images", "images"), [([], "test"), (["validation_images=100"], "validation")]
)
def test_an_epochs_line_names_the_images_of_its_error(validation_images, images):
    few = ["steps=1", "batch_per_worker=8", "train_images=100"]
    done = CliRunner().invoke(app, ["train", *SETTINGS, *few, *validation_images])
    assert done.exit_code == 0
    assert f" %, {images} top-1 error " in done.stdout


@pytest.mark.slow
def test_stopped_it_says_what_is_kept_and_how_to_go_on(tmp_path):
    """A name that a terminal would not print as it is stays the same folder."""
    out = "a b\x1b[31m:80:"
    with subprocess.Popen(
        [command(), "train", *SETTINGS, "epochs=300", "--out", out],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        read_until(process, "epoch 1:")
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    line, *more = said.splitlines()
    assert more == []
    assert line.startswith("stopped; the checkpoint of step ")
    assert r"in a b\x1b[31m:80: is intact; the same command goes on from it: groupnorm" in line
    written = line.split("from it: ")[1]
    typed = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {written}"], capture_output=True, text=True
    )
    assert typed.stdout.splitlines() == [
        "groupnorm", "train", *SETTINGS, "epochs=300", "--out", out
    ]  # fmt: skip
    assert (tmp_path / out / "checkpoint.pt").exists()


@pytest.mark.parametrize("out", [[], ["--out", "run"]])
def test_ctrl_c_before_anything_is_kept(tmp_path, monkeypatch, out):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(record, "record_run", interrupted)
    before = signal.getsignal(signal.SIGTERM)
    done = CliRunner().invoke(app, ["train", "epochs=1", *out])
    assert done.exit_code == 130
    told = "run holds no checkpoint yet; the same command" if out else "stopped; nothing is kept"
    assert told in done.output
    assert signal.getsignal(signal.SIGTERM) is before
