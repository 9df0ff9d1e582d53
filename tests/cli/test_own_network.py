"""groupnorm study convert with a network of the user's own."""

import json

import pytest

from groupnorm.cli.own_network import PARAMETERS
from tests.cli.commands import groupnorm, typed
from tests.study.conversions.own import own_network

OWN = ("study", "convert", "--network", "mine_for_tests:make", "--images", "photos", "--size", "16")


@pytest.mark.slow
def test_tables_for_a_network_of_ones_own(tmp_path):
    own_network(tmp_path, images=20)
    done = groupnorm(*OWN, "--labels", "--out", "tables", cwd=tmp_path)
    assert "34 trials of conversions: 0 reused, 34 to do" in done.stdout
    assert "mine_for_tests:make" in done.stdout
    out = tmp_path / "tables"
    page = (out / "report.html").read_text()
    assert "Not every trial has a result" not in page
    asked = json.loads((out / "runs" / "network" / "network.json").read_text())
    assert (asked["labels"], asked["size"], asked["checkpoint"]) == (True, 16, None)
    before = (out / "trials.csv").read_text()
    done = groupnorm(*OWN, "--labels", "--out", "tables", cwd=tmp_path)
    assert "34 trials of conversions: 34 reused, 0 to do" in done.stdout
    assert (out / "trials.csv").read_text() == before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--images", "photos"], "--images goes with --network"),
        (["--network", "x:make"], "--network needs --images"),
        (["--network", "no_such_module:make", "--images", "."], "no_such_module"),
        (["--network", "x:make", "--images", ".", "--seeds", "3"], "seeds does not go with"),
        (["--network", "x:make", "--images", ".", "--track", "tensorboard"], "--track does not go"),
    ],
)
def test_what_does_not_go_together(tmp_path, line, message):
    (tmp_path / "photos").mkdir()
    done = typed("study", "convert", *line, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("groupnorm-study*"))


def test_only_this_study_has_these_options():
    help_ = typed("study", "convert", "--help").stdout
    other = typed("study", "norms", "--help").stdout
    for parameter in PARAMETERS:
        assert f"--{parameter.name}" in help_
        assert f"--{parameter.name} " not in other
