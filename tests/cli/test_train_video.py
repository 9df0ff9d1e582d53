"""groupnorm train task=video: its lines, what it starts from, and going on after kill -9."""

import json
import os
import signal
import subprocess
import sys

import pytest

from groupnorm.data import catalog
from groupnorm.study.store import read_metrics
from tests.cli.commands import typed
from tests.data.video.tiny_videos import ENTRY, FILES_ENTRY, write_files

FEW = [
    "task=video", "data=columns", "frames=4", "stride=2", "workers=2", "batch_per_worker=4",
    "base_lr=0.4", "test_clips=3", "memory_format=channels_last",
]  # fmt: skip
# The command in a process of its own, which knows the data set.
COMMAND = (
    f"from groupnorm.data import catalog; catalog._VIDEO_SETS['columns'] = {ENTRY}; "
    f"catalog._VIDEO_SETS['columns-files'] = {FILES_ENTRY}; "
    "from groupnorm.cli import main; main()"
)


@pytest.fixture(autouse=True)
def _by_name(monkeypatch):
    monkeypatch.setitem(catalog._VIDEO_SETS, "columns", ENTRY)


def test_an_epochs_line_has_accuracies():
    done = typed("train", *FEW, "steps=2", "norm=gn:size=8")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith("epoch 1: training accuracy ")
    assert ", test top-1 accuracy " in line
    assert line.endswith(" clips/s")


def test_it_goes_on_from_another_run(tmp_path):
    first = tmp_path / "first"
    assert typed("train", *FEW, "steps=1", "--out", first).returncode == 0
    done = typed("train", *FEW, "steps=1", "seed=1", f"init={first}", "--out", tmp_path / "second")
    assert done.returncode == 0, done.stderr
    env = json.loads((tmp_path / "second" / "env.json").read_text())
    assert env["init"]["left_out"] == env["init"]["fresh"] == []


@pytest.mark.parametrize(
    ("field", "told"),
    [
        ("data=nothing", "error: unknown video data set 'nothing'; known: "),
        ("frames=0", "error: frames must be at least 1, got '0'"),
        ("test_crops=2", "error: test_crops: expected 1 or 3 crops, got 2"),
        ("test_crops=3", "error: the frames of columns are taken whole"),
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
@pytest.mark.parametrize("data", ["columns", "columns-files"])
def test_killed_it_goes_on_to_the_same_rows(tmp_path, data):
    """kill -9 of a real process after two of its epochs; then the same command."""
    fields = [*FEW, "norm=bn", "accumulate=2", "centre_time=true", "steps=30", "seed=3"]
    if data == "columns-files":
        write_files(tmp_path / "data")
        for split, number in (("train", 3), ("test", 2)):
            (tmp_path / "data" / split / f"{number}.mkv").write_bytes(b"no video")
        fields[1] = f"data={data}"
        fields += ["max_unreadable=0.2", "--data-root", str(tmp_path / "data")]
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
    assert len(rows["whole"]) == 10
    assert rows["killed"] == rows["whole"]
    assert rows["whole"][-1]["train_accuracy"] > 40, "it has learned something to compare"
    if data == "columns-files":
        told = [(tmp_path / name / "unreadable.json").read_text() for name in rows]
        assert told[0] == told[1]
        assert "train/3.mkv" in told[0]
        assert "test/2.mkv" in told[0]
        assert rows["whole"][-1]["image_counts"]["replaced_videos"] == 1
