"""groupnorm study fine-tuning: the smoke scale to its report, and going on after kill -9."""

import json
import time

import pytest

from tests.cli.commands import killed_when, typed

pytestmark = pytest.mark.slow
SMOKE = ("study", "fine-tuning", "--scale", "smoke", "--jobs", "1")


def results(out):
    """The metrics of every finished run, without its time, by its folder."""
    found = {}
    for done in out.glob("runs/*/DONE"):
        lines = (done.parent / "metrics.jsonl").read_text().splitlines()
        found[done.parent.name] = [{**json.loads(line), "timing": None} for line in lines]
    return found


def test_smoke_is_killed_and_goes_on_to_its_report(tmp_path):
    out, whole = tmp_path / "study", tmp_path / "whole"
    killed_when(lambda: len(results(out)) >= 3, *SMOKE, "--out", out)
    time.sleep(1.0)  # the process of the trials ends when it sees that the study has
    done = typed(*SMOKE, "--out", out)
    assert done.returncode == 0, done.stderr
    done = typed(*SMOKE, "--out", whole)
    assert done.returncode == 0, done.stderr
    assert results(out) == results(whole)
    assert len(results(out)) == 10
    page = (out / "report.html").read_text()
    assert "smoke scale: nothing is learned" in page
    for arm in ("Converted", "Converted, 8 groups", "Converted, 8 groups, no offsets"):
        assert f"{arm}: 1 conversion replaced 8 norms of the encoder" in page
    assert page.count("; none was left as it was.") == 3
    reports = [
        env["init"]["conversion"]
        for path in out.glob("runs/*/env.json")
        if "conversion" in (env := json.loads(path.read_text())).get("init", {})
    ]
    assert len(reports) == 3
