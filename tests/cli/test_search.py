"""`groupnorm study groups --search` as a user types it: killed, repeated, on Ray, as JSON."""

import json
import subprocess

import pytest

from groupnorm.cli import study
from tests.cli.commands import command, groupnorm, typed
from tests.cli.test_study import read_until

# a schedule of 21 epochs has the shortest rungs: 1, 3 and 9 epochs
ARGUMENTS = ["study", "groups", "--search", "data=digits", "epochs=21", "train_images=64"]
ARGUMENTS += ["validation_images=60"]


def results(out):
    """Every epoch of every run, without times, and what the report says of them."""
    runs = {
        path.parent.name: [
            {key: value for key, value in json.loads(line).items() if key != "timing"}
            for line in path.read_text().splitlines()
        ]
        for path in sorted(out.glob("runs/*/metrics.jsonl"))
    }
    return runs, json.loads(groupnorm("report", out, "--json").stdout)


@pytest.mark.slow
def test_a_search_killed_in_each_rung_ends_as_one_that_was_not(tmp_path):
    groupnorm(*ARGUMENTS, "--out", tmp_path / "whole")
    whole = results(tmp_path / "whole")
    for rung in ("rung 1: ", "rung 2: ", "rung 3: "):
        with subprocess.Popen(
            [command(), *ARGUMENTS, "--out", "killed"],
            cwd=tmp_path, stdout=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            read_until(process, rung)
            read_until(process, ": epoch ")
            process.kill()
    said = groupnorm(*ARGUMENTS, "--out", tmp_path / "killed").stdout
    assert "9 untrained networks measured" in said
    assert results(tmp_path / "killed") == whole
    runs, numbers = whole
    assert sorted(map(len, runs.values())) == [1] * 6 + [3] * 2 + [9] * 2
    assert sorted(numbers["search"]["outcomes"].values()) == [
        "chosen", *["dropped after epoch 1"] * 6, *["dropped after epoch 3"] * 2
    ]  # fmt: skip
    assert sorted(row["epochs"] for row in numbers["rows"]) == [1] * 6 + [3] * 2 + [9]
    assert (numbers["search"]["done"], numbers["differences"]) == (True, [])
    assert (tmp_path / "whole" / "figures" / "search.svg").exists()


@pytest.mark.slow
def test_the_trials_of_a_search_run_on_ray(tmp_path):
    pytest.importorskip("ray")
    groupnorm(*ARGUMENTS, "--cluster", "--out", tmp_path / "ray")
    runs, numbers = results(tmp_path / "ray")
    assert sorted(map(len, runs.values())) == [1] * 6 + [3] * 2 + [9] * 2
    found = numbers["search"]
    assert found["outcomes"][found["chosen"]] == "chosen"


def test_too_few_epochs_are_answered_with_how_many_it_takes(tmp_path):
    done = typed("study", "groups", "search=true", "epochs=20", "--out", tmp_path / "s")
    assert done.returncode == 2
    assert "give epochs=21 at least, got 20" in done.stderr
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("settings", "folder"),
    [
        (["--search"], "groupnorm-study-groups-search"),
        (["search=true"], "groupnorm-study-groups-search"),
        ([], "groupnorm-study-groups"),
        (["--search", "--out", "mine"], "mine"),
    ],
)
def test_a_search_has_a_folder_of_its_own(monkeypatch, settings, folder):
    ran = []
    monkeypatch.setattr(study, "_run", lambda name, options, out, *_: ran.append(str(out)))
    typed("study", "groups", *settings)
    assert ran == [folder]


@pytest.mark.parametrize("name", ["batch-size", "norms", "imagenet-groups"])
def test_only_the_study_of_groups_searches(name, tmp_path):
    done = typed("study", name, "--search", "--out", tmp_path / "s")
    assert done.returncode == 2
    assert "No such option" in done.stderr
    assert "--search" not in typed("study", name, "--help").stdout
