"""Curves for TensorBoard, read back with TensorBoard's own reader."""

import importlib.util
import io

import pytest
from rich.console import Console

from groupnorm.study.runners.track import (
    RunCurves,
    TrackedProgress,
    TrackError,
    check_track,
    curve_values,
    recorded_curves,
)
from groupnorm.study.store import read_metrics, run_folder, to_json, write_metrics
from tests.study.fake_store import fake_metrics
from tests.study.runners.test_local import configs
from tests.tolerances import STEP


def curves_in(folder):
    """{curve: [(epoch, value)]} of the event files in a folder, as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder))
    reader.Reload()
    return {
        tag: [(event.step, event.value) for event in reader.Scalars(tag)]
        for tag in reader.Tags()["scalars"]
    }


def times_in(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder))
    reader.Reload()
    return [event.wall_time for event in reader.Scalars("error/train")]


def epochs_in(folder):
    return [step for step, _ in curves_in(folder)["error/test"]]


@pytest.mark.parametrize("images", ["test", "validation"])
def test_every_curve_has_the_values_of_the_record(tmp_path, images):
    rows = fake_metrics("bn", 8, 0)
    curves = RunCurves(tmp_path / "c", rows[:5], until=1000.0, images=images)
    for row in rows[5:]:
        curves.epoch(row)
    curves.close()
    read = curves_in(tmp_path / "c")
    assert set(read) == {
        "error/train", "error/" + images, f"error/{images}, recomputed statistics", "loss/train",
        "loss/" + images, "learning rate", "images per second",
    }  # fmt: skip
    for curve, of_curve in read.items():
        expected = [
            (row["epoch"], pytest.approx(curve_values(row, images)[curve], rel=STEP))
            for row in rows
            if curve in curve_values(row, images)
        ]
        assert of_curve == expected
    assert len(read[f"error/{images}, recomputed statistics"]) == 5
    assert times_in(tmp_path / "c")[:5] == [992.0, 994.0, 996.0, 998.0, 1000.0]


def test_curves_are_named_after_what_the_task_measures():
    row = {
        "epoch": 2, "step": 9, "lr": 0.1, "train_error": 30.0, "val_error": 40.0, "box_ap": 31.4,
        "precise_val_error": 39.0, "precise_box_ap": None, "train_loss_mask": 0.5,
        "image_counts": {"small": 2}, "timing": {"seconds": 2.0, "images_per_second": 10.0},
    }  # fmt: skip
    assert curve_values(row) == {
        "learning rate": 0.1, "error/train": 30.0, "error/validation": 40.0, "box_ap": 31.4,
        "error/validation, recomputed statistics": 39.0, "loss_mask/train": 0.5,
        "images per second": 10.0,
    }  # fmt: skip


def test_an_epoch_told_again_is_there_once(tmp_path):
    rows = fake_metrics("gn", 8, 0)
    first = RunCurves(tmp_path / "c", [], until=0.0, images="test")
    for row in (rows[0], rows[1], rows[1], rows[0], rows[2]):
        first.epoch(row)
    first.close()
    assert epochs_in(tmp_path / "c") == [1, 2, 3]
    again = RunCurves(tmp_path / "c", rows[:3], until=0.0, images="test")
    for row in rows[2:]:
        again.epoch(row)
    again.close()
    assert epochs_in(tmp_path / "c") == list(range(1, 9))
    assert len(list((tmp_path / "c").iterdir())) == 1


def test_a_study_that_goes_on_or_moves_a_trial(tmp_path):
    """One run was done before, one goes on from epoch 2 and is moved once."""
    runs = configs({"seed": 0, "epochs": 8}, {"seed": 1, "epochs": 8})
    done, half = runs
    rows = fake_metrics("gn", 8, 0)
    for name, count in ((done, 8), (half, 2)):
        run_folder(tmp_path, name).mkdir(parents=True)
        write_metrics(run_folder(tmp_path, name), rows[:count])
    with TrackedProgress(tmp_path, runs, Console(file=io.StringIO())) as progress:
        progress.ended(done, "finished", None)
        progress.started(half, runs[half])
        for row in rows[1:5]:
            progress.epoch(half, row)
        assert epochs_in(tmp_path / "tensorboard" / half) == [1, 2, 3, 4, 5]  # while it runs
        progress.moved(half, "its node was lost")
        progress.started(half, runs[half])
        for row in rows[3:]:
            progress.epoch(half, row)
        progress.ended(half, "finished", None)
    for name in runs:
        assert epochs_in(tmp_path / "tensorboard" / name) == list(range(1, 9))
    assert len(read_metrics(run_folder(tmp_path, half))) == 2  # the record is the trial's alone


@pytest.mark.parametrize(("held", "images"), [(None, "test"), (50, "validation")])
def test_curves_name_the_images_of_the_evaluation_as_the_record_does(tmp_path, held, images):
    ((name, run),) = configs({"seed": 0, "epochs": 8, "validation_images": held}).items()
    folder = run_folder(tmp_path, name)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(to_json(run.model_dump()))
    write_metrics(folder, fake_metrics("gn", 8, 0)[:2])
    recorded_curves(tmp_path / "c", folder).close()
    assert f"error/{images}" in curves_in(tmp_path / "c")


def test_what_cannot_be_tracked(monkeypatch):
    check_track("tensorboard")
    with pytest.raises(TrackError, match="takes tensorboard, got 'wandb'"):
        check_track("wandb")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TrackError, match=r"pip install 'groupnorm\[track\]'"):
        check_track("tensorboard")
