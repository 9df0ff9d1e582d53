"""groupnorm train task=segmentation: its lines, its notes, and going on after kill -9."""

import json
import os
import signal
import subprocess
import sys

import pytest

from groupnorm.data import catalog
from groupnorm.study.store import read_metrics
from tests.cli.commands import typed
from tests.data.segmentation import tiny_maps

FEW = [
    "task=segmentation", "data=shapes", "workers=2", "batch_per_worker=4", "base_lr=3.2",
    "memory_format=channels_last",
]  # fmt: skip
# The command in a process of its own, which knows the data set.
COMMAND = (
    "from groupnorm.data import catalog; "
    f"catalog._SEGMENTATION_SETS['shapes'] = {tiny_maps.ENTRY}; "
    "from groupnorm.cli import main; main()"
)


@pytest.fixture(autouse=True)
def _by_name(monkeypatch):
    monkeypatch.setitem(catalog._SEGMENTATION_SETS, "shapes", tiny_maps.ENTRY)


def test_an_epochs_line_has_the_mean_iou():
    done = typed("train", *FEW, "steps=2", "norm=gn:size=8", "norms.decoder=bn")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith("epoch 1: training pixel accuracy ")
    assert ", test mean IoU " in line
    assert line.endswith(" images/s")


def test_classes_that_are_not_there_are_named(monkeypatch):
    more = tiny_maps.tiny_maps(class_names=(*tiny_maps.CLASSES, "star"))
    monkeypatch.setattr(tiny_maps, "load", lambda root: more)
    done = typed("train", *FEW, "steps=1")
    assert "note: no test pixel is of star: mean IoU is that of the other 3 classes" in done.stderr


def test_it_goes_on_from_another_run(tmp_path):
    first = tmp_path / "first"
    assert typed("train", *FEW, "steps=1", "--out", first).returncode == 0
    done = typed("train", *FEW, "steps=1", "seed=1", f"init={first}", "--out", tmp_path / "second")
    assert done.returncode == 0, done.stderr
    env = json.loads((tmp_path / "second" / "env.json").read_text())
    assert env["init"]["left_out"] == env["init"]["fresh"] == []
    (row,) = read_metrics(tmp_path / "second")
    assert set(row["class_iou"]) == set(tiny_maps.CLASSES)


@pytest.mark.parametrize(
    ("field", "told"),
    [
        ("data=nothing", "error: unknown segmentation data set 'nothing'; known: garments-masks"),
        (
            "model=resnet20",
            "error: unknown network for segmentation 'resnet20'; known: unet_narrow",
        ),
        ("norms.stem=ln", "error: unet_narrow has no place 'stem'; its places: encoder, decoder"),
        ("width=2", "error: unknown key 'width'; known keys: task, model"),
        ("norm=none+nf", "error: none+nf needs blocks of another form than unet_narrow has"),
    ],
)
def test_what_is_refused(field, told):
    key = field.partition("=")[0]
    others = [one for one in FEW if not one.startswith(f"{key}=")]
    done = typed("train", *others, "steps=1", field)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_killed_it_goes_on_to_the_same_rows(tmp_path):
    """kill -9 of a real process after two of its epochs; then the same command."""
    fields = [*FEW, "norm=bn", "accumulate=2", "steps=45", "schedule=cosine", "seed=3"]
    line = [sys.executable, "-c", COMMAND, "train", *fields, "--json", "--out"]
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [*line, str(tmp_path / "killed")], stdout=subprocess.PIPE, text=True, env=env
    ) as process:
        for _ in range(2):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "DONE").exists()
    rows = {}
    for name in ("killed", "whole"):
        subprocess.run([*line, str(tmp_path / name)], check=True, capture_output=True, timeout=600)
        rows[name] = [{**row, "timing": None} for row in read_metrics(tmp_path / name)]
    assert len(rows["whole"]) == 15
    assert rows["killed"] == rows["whole"]
    first, *_, last = (row["val_mean_iou"] for row in rows["whole"])
    assert last > first + 3, "it has learned something to compare"
