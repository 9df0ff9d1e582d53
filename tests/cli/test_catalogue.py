"""The published comparisons on the command line."""

import json

import pytest

from groupnorm.experiments import EXPERIMENTS, build
from tests.cli.commands import groupnorm, typed


def test_the_list():
    words = typed("study", "--list").stdout
    published = [name for name in EXPERIMENTS if build(name).result is not None]
    for name in published:
        assert f"{name}  {build(name).title[:20]}" in words
    listed = json.loads(typed("study", "--list", "--json").stdout)
    assert [entry["name"] for entry in listed] == published
    assert all(entry["source"] and entry["result"] for entry in listed)


@pytest.mark.slow
def test_a_smoke_study_from_image_files_to_the_report(tmp_path):
    out = tmp_path / "out"
    done = groupnorm("study", "pets-resnet34", "--scale", "smoke", "--out", out)
    assert "3 configurations, in stages, paper protocol, on photo-patches" in done.stdout
    manifest = json.loads((out / "study.json").read_text())
    assert manifest["tuned_over"] == "base_lr"
    assert len(list((out / "runs").iterdir())) == 9, "two learning rates of three, then the chosen"
    assert "smoke scale" in (out / "report.html").read_text()
    assert "smoke scale measures nothing" in (out / "cost.json").read_text()
    for run in (out / "runs").iterdir():
        (row,) = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        assert row["image_counts"] == {
            "replaced_images": 0,
            "left_out_images": 0,
            "converted_images": 0,
        }
        assert row["step"] == 2


def test_missing_data_is_answered_in_words(tmp_path):
    done = typed("study", "imagenet-norms", cwd=tmp_path)
    assert done.returncode == 2
    assert "imagenet (" in done.stderr
    assert "looked in" in done.stderr
    assert "Traceback" not in done.stderr
