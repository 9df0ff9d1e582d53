"""groupnorm study convert: the smoke scale to its report, and going on after kill -9."""

import json
import shutil
import time

import pytest

from tests.cli.commands import killed_when, typed

pytestmark = pytest.mark.slow
SMOKE = ("study", "convert", "--scale", "smoke", "--jobs", "1")


def results(out):
    """What every trial gave, without its time, by its file."""
    found = {}
    for path in out.glob("runs/*/trials/*.json"):
        record = json.loads(path.read_text())
        assert record["reason"] is None
        found[path.relative_to(out)] = {**record["result"], "seconds": None}
    return found


def test_smoke_is_killed_between_trials_and_goes_on_to_its_report(tmp_path):
    out, again = tmp_path / "study", tmp_path / "again"
    killed_when(lambda: len(list(out.glob("runs/*/trials/*.json"))) >= 4, *SMOKE, "--out", out)
    time.sleep(1.0)  # the process of the trials ends when it sees that the study has
    before = results(out)
    done = typed(*SMOKE, "--out", out)
    assert done.returncode == 0, done.stderr
    assert f"{len(before)} reused" in done.stdout
    found = results(out)
    assert before.items() <= found.items()
    page = (out / "report.html").read_text()
    assert "Not every trial has a result" not in page
    assert "smoke scale: nothing is learned" in page
    assert "1 run: 1 reused" in done.stdout

    shutil.copytree(out, again)
    for path in list(found)[::3]:
        (again / path).unlink()
    done = typed(*SMOKE, "--out", again)
    assert done.returncode == 0, done.stderr
    assert results(again) == found
    (again / "report.html").unlink()
    done = typed("report", again)
    assert done.returncode == 0, done.stderr
    assert (again / "report.html").read_text().count("<svg") >= 2
