"""groupnorm train under torchrun: one message for what is wrong, a lost process, going on."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from groupnorm.study.record import record_run
from groupnorm.study.store import read_metrics
from groupnorm.training.config import RunConfig
from groupnorm.training.distributed import Processes
from tests.processes import in_processes

FIELDS = {
    "data": "digits", "model": "resnet8", "width": 0.25, "norm": "bn", "workers": 4,
    "batch_per_worker": 4, "train_images": 320, "epochs": 16,
}  # fmt: skip
SETTINGS = [f"{key}={value}" for key, value in FIELDS.items()]


def torchrun(count, *arguments):
    return subprocess.Popen(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone",
            f"--nproc-per-node={count}", "-m", "groupnorm", "train", *map(str, arguments),
        ],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def process_of_rank(launcher, rank):
    """The process id of a rank, from the environment that torchrun gave to its children."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
            environment = (path / "environ").read_bytes().split(b"\0")
        except (OSError, IndexError):
            continue
        if parent == launcher.pid and f"RANK={rank}".encode() in environment:
            return int(path.name)
    raise AssertionError(f"no process of rank {rank}")


def without_timing(rows):
    return [{key: value for key, value in row.items() if key != "timing"} for row in rows]


def state_of(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def recorded(rank, count, folder, fields):
    processes = Processes(rank, count)
    return record_run(RunConfig(**fields), folder, threads=1, processes=processes).metrics


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("workers=3", "3 workers cannot be divided among 2 processes"),
        ("train_images=100000", "train_images=100000, but digits has 1437 of them"),
        ("batch_per_worker=9000", "a step of 4 x 9000 images needs at least 36000 training"),
    ],
)
def test_a_users_mistake_is_said_once(tmp_path, wrong, told):
    """The last two are found only after the processes have joined: by one of them, and by all."""
    key = wrong.partition("=")[0]
    others = [setting for setting in SETTINGS if not setting.startswith(f"{key}=")]
    done = torchrun(2, *others, wrong, "--out", tmp_path / "run")
    _, said = done.communicate(timeout=300)
    assert done.returncode != 0
    (line,) = (line for line in said.splitlines() if line.startswith("error: "))
    assert told in line
    assert "exitcode  : 2" in said
    assert not re.search(r"exitcode  : (-6|1) ", said)
    assert "File" not in said.split("torch/distributed")[0]  # no traceback but torchrun's own


@pytest.mark.slow
def test_a_lost_process_ends_the_run_and_the_same_command_goes_on(tmp_path):
    """Rank 1 is killed, then rank 0; the third start finishes, with the bits of a whole run."""
    folder = tmp_path / "run"
    command = [*SETTINGS, "--out", folder, "--json"]
    epochs = []
    for lost in (1, 0):
        launcher = torchrun(2, *command)
        epochs += [json.loads(launcher.stdout.readline())["epoch"] for _ in range(2)]
        os.kill(process_of_rank(launcher, lost), signal.SIGKILL)
        killed = time.monotonic()
        _, said = launcher.communicate(timeout=120)
        assert time.monotonic() - killed < 20
        assert launcher.returncode != 0
        (line,) = (line for line in said.splitlines() if line.startswith("error: "))
        assert "a process of the training was lost" in line
        assert f"in {folder} is intact; the same command goes on from it" in line
        step = int(line.split("the checkpoint of step ")[1].split()[0])
        assert step == state_of(folder)["progress"]["step"]
        assert step % 20 == 0
        assert step >= 20 * epochs[-1]
        assert not (folder / "DONE").exists()
    assert epochs[2] >= epochs[1]  # it begins with the epoch that the checkpoint ends with
    launcher = torchrun(2, *command)
    _, said = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, said
    assert json.loads((folder / "DONE").read_text())["status"] == "finished"
    env = json.loads((folder / "env.json").read_text())
    assert (env["processes"], env["backend"], env["threads"]) == (2, "gloo", 1)
    in_processes(2, recorded, tmp_path / "whole", FIELDS)
    assert without_timing(read_metrics(folder)) == without_timing(read_metrics(tmp_path / "whole"))
    ours, theirs = state_of(folder)["model"], state_of(tmp_path / "whole")["model"]
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
