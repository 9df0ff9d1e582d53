"""A study of clips with real runs: its ceilings are recorded, and its networks predict."""

import json

import pytest
from rich.console import Console

from groupnorm.data import catalog
from groupnorm.run import video
from groupnorm.study import Plan, execute, run_study, sample_pass
from groupnorm.study.record import CHECKPOINT
from groupnorm.study.results.samples import samples_of
from groupnorm.study.sample_pass import predict_samples
from groupnorm.study.store import Cell, read_config, read_manifest
from groupnorm.study.trained import read_network, read_trained
from groupnorm.training.metric import VIDEO
from tests.cli.commands import typed
from tests.data.video import tiny_videos
from tests.data.video.tiny_videos import CLASSES, ENTRY

FEW = ["task=video", "data=columns", "workers=2", "batch_per_worker=4", "test_clips=2", "steps=1"]


@pytest.fixture(autouse=True)
def _by_name(monkeypatch):
    monkeypatch.setitem(catalog._VIDEO_SETS, "columns", ENTRY)
    monkeypatch.setattr(sample_pass, "IMAGES", 3)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A folder with a run with short clips and one with long ones, and their cells."""
    out, cells = tmp_path_factory.mktemp("clips"), []
    for norm, frames, stride in (("bn", 4, 2), ("gn:size=8", 8, 1)):
        made = out / "made"
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(catalog._VIDEO_SETS, "columns", ENTRY)
            fields = [*FEW, f"norm={norm}", f"frames={frames}", f"stride={stride}"]
            done = typed("train", *fields, "--out", made)
        assert done.returncode == 0, done.stderr
        name = read_config(made).run_name()
        (out / "runs").mkdir(exist_ok=True)
        made.rename(out / "runs" / name)
        labels = {"norm": norm, "batch_per_worker": 4, "frames": frames, "stride": stride}
        cells.append(Cell(labels, 0, name))
    return out, cells


def test_a_study_records_ceilings_and_predicts_after_its_trials(study, monkeypatch):
    out, cells = study
    monkeypatch.setattr(tiny_videos, "load", lambda root: tiny_videos.tiny_videos(ceilings={2: 75}))
    monkeypatch.setattr(execute, "run_trials", lambda *_, **__: [])
    monkeypatch.setattr(execute, "build_report", lambda out: out)
    configs = {cell.run: read_config(out / "runs" / cell.run) for cell in cells}
    plan = Plan("video", "Clips", "fixed-step", "quick", {}, cells, configs, "clips", (),
                untimed="a test", metric=VIDEO[0])  # fmt: skip
    run_study(plan, out, jobs=1, console=Console(quiet=True))
    assert read_manifest(out)["data"]["ceilings"] == {"2": 75}
    found = samples_of(out)
    assert (found.content, found.things, found.reason) == ("clips", "test video", None)
    assert found.categories == list(CLASSES)
    assert [image["frames"] for image in found.images] == [8, 8, 8]
    assert list(found.runs) == [cell.run for cell in cells]
    assert all(len(run["objects"]) == 3 for run in found.runs.values())
    assert json.loads((out / "samples/samples.json").read_text())["content"] == "clips"


def test_what_prevents_a_prediction_is_said_of_videos(study, tmp_path, monkeypatch):
    out, (bn, gn) = study
    told = []
    (tmp_path / "runs").symlink_to(out / "runs")
    checkpoint = out / "runs" / bn.run / CHECKPOINT
    checkpoint.rename(out / "kept")
    predict_samples(tmp_path, [bn, gn], None, told.append)
    (out / "kept").rename(checkpoint)
    assert told[0] == "predicting with 2 networks on 3 test videos"
    assert told[1].startswith(f"no predictions of {bn.run} are shown: ")
    predict_samples(tmp_path, [bn, gn], None, told.append)
    assert told[2:] == ["predicting with 1 network on 3 test videos"]
    assert samples_of(tmp_path).left_out == {}


def test_videos_that_cannot_be_used_are_a_reason(study, tmp_path, monkeypatch):
    out, cells = study
    monkeypatch.setattr(video, "samples", lambda *_: 1 / 0)
    monkeypatch.setattr(sample_pass, "_FAILURES", ZeroDivisionError)
    (tmp_path / "runs").symlink_to(out / "runs")
    told = []
    predict_samples(tmp_path, cells, None, told.append)
    assert "the test videos cannot be used: " in told[0]
    assert samples_of(tmp_path).content == "clips"


def test_a_video_classifier_is_used_with_its_data_set(study):
    out, (bn, _) = study
    folder = out / "runs" / bn.run
    assert read_network(folder).config.run_name() == bn.run
    with pytest.raises(
        ValueError, match=r"holds a run of video \(.*\), which is used with its data set"
    ):
        read_trained(folder)
