"""Trials on a real Ray cluster of two nodes on this machine, one of which dies in the middle."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import groupnorm
from groupnorm.study.runners.ray.cluster import _Runner, _Trial
from groupnorm.study.store import read_metrics, run_folder, write_metrics
from tests.study.runners.ray.cluster_process import kill_node, trials_of
from tests.study.runners.test_local import config, run

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]
ROOT = Path(groupnorm.__file__).parent.parent


def process(kind, cwd, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.study.runners.ray.cluster_process", kind],
        cwd=cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"},
        **options,
    )


class Nodes:
    """The cluster's process; `add` starts a node."""

    def __init__(self, holder):
        self.holder = holder
        self.head = json.loads(holder.stdout.readline())

    def add(self, python_path):
        self.holder.stdin.write(f"{python_path}\n")
        self.holder.stdin.flush()
        return json.loads(self.holder.stdout.readline())["pids"]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    with process("nodes", tmp_path_factory.mktemp("nodes"), stderr=subprocess.DEVNULL) as holder:
        yield Nodes(holder)
        holder.stdin.close()
        holder.wait(timeout=60)


def study(nodes, out, runs, cwd, on_event=lambda event: None):
    """Events of a study in a process of its own, and what it wrote to standard error."""
    events = []
    with process("study", cwd, stderr=subprocess.PIPE) as driver:
        asked = {"out": str(out), "address": nodes.head["address"]}
        json.dump({**asked, "configs": [r.model_dump() for r in runs]}, driver.stdin)
        driver.stdin.close()
        for line in driver.stdout:
            sys.stdout.write(line)  # shown when the test fails
            events.append(json.loads(line))
            on_event(events[-1])
        return events, driver.stderr.read()


def most_at_a_time(events):
    running, most = set(), 0
    for event in events:
        if event[0] == "started":
            running.add(event[1])
        elif event[0] in ("moved", "ended"):
            running.discard(event[1])
        most = max(most, len(running))
    return most


def untimed(folder):
    return [{**row, "timing": None} for row in read_metrics(folder)]


def environment(folder):
    """What a run recorded of versions and machine; the times within `cost` are never the same."""
    return {**json.loads((folder / "env.json").read_text()), "cost": None}


def test_a_lost_node_costs_only_its_running_trials(nodes, tmp_path):
    """The nodes do not see `out`: its path leads to another folder in every other process."""
    runs = [config(seed=seed, epochs=6) for seed in range(4)]
    names = [r.run_name() for r in runs]
    broken = run_folder(tmp_path / "out", names[3])
    broken.mkdir(parents=True)
    (broken / "checkpoint.pt").write_bytes(b"no checkpoint")
    second = nodes.add(ROOT)
    hit = set()

    def kill_in_the_middle(event):
        if event[0] == "epoch" and event[2] == 3 and event[1] in trials_of(second) and not hit:
            hit.update(trials_of(second))
            kill_node(second)

    out = Path("/proc/self/cwd/out")
    events, said = study(nodes, out, runs, tmp_path, kill_in_the_middle)
    assert events[-1] == ["records", "", ["finished"] * 3 + ["failed"]], said
    assert len(hit) == 1
    assert said == ""
    # A node has one CPU; a trial's end may be told after the next one's start, on one node at most.
    assert most_at_a_time(events) in (2, 3)
    count = {n: sum(e[:2] == ["started", n] for e in events) for n in names}
    assert count == {n: 2 if n in hit else 1 for n in names}
    assert {e[1] for e in events if e[0] == "moved"} == hit
    moved = next(place for place, e in enumerate(events) if e[0] == "moved")
    _, name, told = events[moved]
    again = next(e[2] for e in events[moved:] if e[:2] == ["epoch", name])
    assert again >= 3  # the node may have gone on a little before it died
    assert told.endswith(f"goes on elsewhere from epoch {again}")
    for name in names[:3]:
        epochs = [e[2] for e in events if e[:2] == ["epoch", name]]
        assert sorted(set(epochs)) == list(range(1, 7))
        assert epochs.count(1) == epochs.count(2) == 1  # never from the start again
    reason = json.loads((broken / "FAILED").read_text())["reason"]
    assert "checkpoint.pt does not end with a digest" in reason
    assert "CheckpointError" in (broken / "log.txt").read_text()

    run(tmp_path / "local", {r.run_name(): r for r in runs[:3]})
    for name in names[:3]:
        sent = run_folder(tmp_path / "out", name)
        assert not (sent / ".lock").exists()  # nobody worked in this folder
        assert untimed(sent) == untimed(run_folder(tmp_path / "local", name))
        assert environment(sent) == environment(run_folder(tmp_path / "local", name))


def test_where_the_folder_is_shared_the_trial_works_in_it(nodes, tmp_path):
    runs = [config(epochs=1)]
    events, _ = study(nodes, tmp_path / "out", runs, tmp_path)
    folder = run_folder(tmp_path / "out", runs[0].run_name())
    assert events[-1] == ["records", "", ["finished"]]
    assert (folder / ".lock").exists()
    assert (folder / "checkpoint.pt").exists()
    assert not (tmp_path / "out" / ".cluster").exists()
    again, _ = study(nodes, tmp_path / "out", runs, tmp_path)
    assert [e[0] for e in again] == ["ended", "records"]


def test_a_node_with_other_sources_is_an_error(nodes, tmp_path):
    shutil.copytree(ROOT / "groupnorm", tmp_path / "other" / "groupnorm")
    with (tmp_path / "other" / "groupnorm" / "spec.py").open("a") as file:
        file.write("# one line more\n")
    # An editable installation's finder would come before PYTHONPATH.
    (tmp_path / "other" / "sitecustomize.py").write_text(
        "import sys\n"
        "sys.meta_path = [f for f in sys.meta_path if 'ScikitBuild' not in type(f).__name__]\n"
    )
    other = nodes.add(tmp_path / "other")
    runs = [config(seed=seed, epochs=300) for seed in range(2)]
    try:
        events, _ = study(nodes, tmp_path / "out", runs, tmp_path)
    finally:
        kill_node(other)
    assert events[-1][0] == "error"
    assert "Install the same on every node" in events[-1][2]
    assert trials_of(nodes.head["pids"]) == set()


def test_a_trial_that_never_gets_anywhere_is_given_up(tmp_path):
    """Three places lost without an epoch in between; an epoch begins the count anew."""
    moves = []
    progress = SimpleNamespace(moved=lambda name, reason: moves.append(reason))
    runner = SimpleNamespace(trials={"x": _Trial()}, out=tmp_path, progress=progress)

    def lose():
        return _Runner.lost(runner, "x", "node died")

    assert [lose(), lose()] == [None, None]
    write_metrics(run_folder(tmp_path, "x"), [{"epoch": 1}])
    assert [lose(), lose()] == [None, None]
    assert "lost its place 3 times" in lose()
    assert [move.rpartition("from ")[2] for move in moves] == ["the start"] * 2 + ["epoch 1"] * 2
