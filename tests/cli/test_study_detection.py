"""groupnorm study detection: the smoke scale to its report, and going on after kill -9."""

import shutil
from dataclasses import replace

import pytest

from groupnorm.data.sets import garments, garments_crops
from groupnorm.data.synthetic.cache import write_arrays
from groupnorm.study.store import read_metrics
from tests.cli.commands import killed_when, typed

pytestmark = pytest.mark.slow
SMOKE = ("study", "detection", "--scale", "smoke", "--jobs", "1")


@pytest.fixture
def _few_garments(tmp_path, monkeypatch):
    """A cache with data sets of the right names and few images."""
    cache = tmp_path / "cache"
    few = replace(garments.QUICK, counts=(16, 4))
    monkeypatch.setenv("GROUPNORM_CACHE", str(cache))
    few.folder.mkdir(parents=True)
    garments.write(few.folder, few)
    arrays = {}
    for split in ("train", "test"):
        found = garments_crops.make(split, 200)
        arrays |= {f"{split}_images": found[0], f"{split}_labels": found[1]}
    write_arrays(garments_crops.cache_file(), arrays)


def epochs_of(out, name):
    """The rows of a run without what depends on the clock."""
    return [
        {key: value for key, value in row.items() if key != "timing"}
        for row in read_metrics(out / "runs" / name)
    ]


def begun_detector(out):
    """The name of a detector's run with an epoch behind it, but not its last one."""
    for path in out.glob("runs/*2x2*/metrics.jsonl"):
        if not (path.parent / "DONE").exists():
            return path.parent.name
    return None


@pytest.mark.usefixtures("_few_garments")
def test_smoke_is_killed_and_goes_on_to_its_report(tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    name = killed_when(lambda: begun_detector(killed), *SMOKE, "--out", killed)
    done = typed(*SMOKE, "--out", killed)
    assert done.returncode == 0, done.stderr
    assert "GN+WS, 2 steps, seed 0: finished, box AP 0.0 %" in done.stdout
    page = (killed / "report.html").read_text()
    assert "GN+WS from scratch" in page
    shutil.copytree(killed, whole)
    shutil.rmtree(whole / "runs" / name)
    done = typed(*SMOKE, "--out", whole)
    assert done.returncode == 0, done.stderr
    assert "6 runs: 5 reused, 0 continued, 1 to train" in done.stdout
    assert len(epochs_of(whole, name)) == 2
    assert epochs_of(killed, name) == epochs_of(whole, name)
