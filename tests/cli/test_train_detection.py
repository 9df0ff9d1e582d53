"""groupnorm train task=detection: its lines, what it starts from, and going on after kill -9."""

import json
import os
import signal
import subprocess

import pytest

from groupnorm.study.store import read_metrics
from tests.cli.commands import command, typed
from tests.data.detection.tiny_garments import FIELDS, tiny_garments

pytestmark = pytest.mark.usefixtures("scenes_on_disk")
FEW = {**FIELDS, "steps": 2, "reported_epochs": 1}
CLASSIFIER = [
    "data=photo-patches", "model=resnet14_narrow", "image_size=32", "norm=gn:groups=8", "steps=1",
    "workers=1", "batch_per_worker=4", "train_images=8",
]  # fmt: skip


def settings(**changes):
    fields = {**FEW, **changes}
    norms = fields.pop("norms")
    return [
        *(f"{key}={value}" for key, value in fields.items()),
        *(f"norms.{place}={norm}" for place, norm in norms.items()),
    ]


def train(*arguments):
    return typed("train", *arguments, "--data-root", tiny_garments())


def test_an_epochs_line_has_average_precision():
    done = train(*settings())
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith("epoch 1: training loss ")
    assert ", test box AP 0.0 %, " in line


@pytest.mark.slow
def test_a_detector_starts_from_a_classifier_and_refuses_damaged_weights(tmp_path):
    first = tmp_path / "first"
    assert typed("train", *CLASSIFIER, "--out", first).returncode == 0
    done = train(*settings(), f"init={first}", "--out", tmp_path / "second")
    assert done.returncode == 0, done.stderr
    env = json.loads((tmp_path / "second" / "env.json").read_text())
    assert env["init"]["left_out"] == ["fc.weight", "fc.bias"]
    foreign = train(*settings(norm="bn"), f"init={first}", "--out", tmp_path / "third")
    assert foreign.returncode == 2
    assert foreign.stderr.splitlines()[-1] == (
        f"error: the weights of {env['init']['run']} do not fit this run's mask_rcnn_narrow: "
        "they were trained with gn:groups=8; with bn the same weights compute something else"
    )
    content = (first / "checkpoint.pt").read_bytes()
    (first / "checkpoint.pt").write_bytes(content[:1000] + b"x" + content[1001:])
    damaged = train(*settings(), f"init={first}", "--out", tmp_path / "fourth")
    assert damaged.returncode == 2
    assert damaged.stderr.splitlines()[-1].startswith("error: ")
    assert "checkpoint.pt is damaged: its content does not match its digest" in damaged.stderr
    assert "Traceback" not in foreign.stderr + damaged.stderr


@pytest.mark.slow
def test_killed_it_goes_on_to_the_same_average_precision(tmp_path):
    """kill -9 of a real process after two of its epochs; then the same command."""
    fields = settings(norm="bn", norms={}, steps=40)
    line = [command(), "train", *fields, "--data-root", str(tiny_garments()), "--json", "--out"]
    with subprocess.Popen(
        [*line, str(tmp_path / "killed")],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:  # fmt: skip
        for _ in range(2):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "DONE").exists()
    rows = {}
    for name in ("killed", "whole"):
        subprocess.run([*line, str(tmp_path / name)], check=True, capture_output=True, timeout=600)
        rows[name] = [{**row, "timing": None} for row in read_metrics(tmp_path / name)]
    assert len(rows["whole"]) == 10
    assert rows["killed"] == rows["whole"]
    assert any(row["box_ap"] > 0 for row in rows["whole"]), "zeros would compare nothing"
