"""groupnorm study fine-tuning: the smoke scale to its report, and going on after kill -9."""

import json
import os
import signal
import subprocess
import time

import pytest

from tests.cli.commands import command, typed

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
    line = [command(), *SMOKE, "--out", str(out)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, start_new_session=True) as process:
        ends = time.monotonic() + 500
        while len(results(out)) < 3:
            assert process.poll() is None
            assert time.monotonic() < ends
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    time.sleep(1.0)  # the process of the trials ends when it sees that the study has
    done = typed(*SMOKE, "--out", out)
    assert done.returncode == 0, done.stderr
    done = typed(*SMOKE, "--out", whole)
    assert done.returncode == 0, done.stderr
    assert results(out) == results(whole)
    assert len(results(out)) == 9
    page = (out / "report.html").read_text()
    assert "smoke scale: nothing is learned" in page
    assert "Each conversion replaced 8 norms of the encoder" in page
    assert "None was left as it was." in page
    reports = [
        env["init"]["conversion"]
        for path in out.glob("runs/*/env.json")
        if "conversion" in (env := json.loads(path.read_text())).get("init", {})
    ]
    assert len(reports) == 2
