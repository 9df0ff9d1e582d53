"""Progress: live on a terminal, plain lines elsewhere."""

import io

import pytest
from rich.console import Console

from groupnorm.study.runners.progress import StudyProgress, clock, describe, names_of
from groupnorm.training.config import RunConfig
from tests.study.fake_store import BOX_AP


def configs():
    made = [
        RunConfig(norm="bn", workers=32, batch_per_worker=2, epochs=4),
        RunConfig(norm="gn:groups=8", workers=2, batch_per_worker=32, epochs=4),
    ]
    return {config.run_name(): config for config in made}


def metrics(epoch):
    return {"epoch": epoch, "val_error": 41.26, "timing": {"images_per_second": 1234.5}}


def play(progress, runs):
    bn, gn = runs
    with progress:
        progress.ended(gn, "finished", None)
        progress.started(bn, runs[bn])
        progress.stepped(bn, 1, 8)
        progress.stepped(bn, 2, 8)
        progress.epoch(bn, metrics(1))
        progress.stepped(bn, 4, 8)
        progress.ended(bn, "diverged", "loss nan at step 5 of 8")


def test_plain_lines():
    stream, runs = io.StringIO(), configs()
    play(StudyProgress(runs, Console(file=stream, force_terminal=False, width=200)), runs)
    text = stream.getvalue()
    assert "\x1b" not in text
    lines = text.splitlines()
    assert lines[0] == "gn:groups=8 1x64 seed 0: finished before"
    assert lines[1] == "bn 32x2 seed 0: started"
    assert lines[2].startswith("bn 32x2 seed 0: epoch 1/4, error 41.3 %, 1,23")
    assert "all trials 62 %" in lines[2]
    assert "left" in lines[2]
    assert lines[3] == "bn 32x2 seed 0: diverged: loss nan at step 5 of 8"


def test_lines_name_the_metric_of_the_study():
    stream, runs = io.StringIO(), configs()
    bn, _ = runs
    console = Console(file=stream, force_terminal=False, width=200)
    progress = StudyProgress(runs, console, None, BOX_AP)
    progress.started(bn, runs[bn])
    progress.epoch(bn, {"epoch": 4, "box_ap": 31.42, "timing": {"images_per_second": 50.0}})
    progress.ended(bn, "finished", None)
    _, epoch, end = stream.getvalue().splitlines()
    assert epoch.startswith("bn 32x2 seed 0: epoch 4/4, box AP 31.4, 50 images/s;")
    assert end == "bn 32x2 seed 0: finished, box AP 31.4 after the last epoch"


def test_unreadable_images_are_told_once_for_all_trials():
    stream, runs = io.StringIO(), configs()
    progress = StudyProgress(runs, Console(file=stream, force_terminal=False, width=200))
    for replaced, left_out in ((0, 0), (2, 0), (2, 0), (1200, 1)):
        for name in runs:
            counts = {"replaced_images": replaced, "left_out_images": left_out}
            progress.epoch(name, {**metrics(1), "image_counts": counts})
    told = [line for line in stream.getvalue().splitlines() if "decoded" in line]
    end = "; named in unreadable.json in the folder of the run"
    start = "files that cannot be decoded:"
    assert told == [
        f"{start} 2 training images replaced by others of the same class{end}",
        f"{start} 1,200 training images replaced by others of the same class, "
        f"1 test image left out{end}",
    ]


@pytest.mark.parametrize("terminal", [True, False])
def test_an_epoch_without_evaluation_has_no_error(terminal):
    stream, runs = io.StringIO(), configs()
    console = Console(file=stream, force_terminal=terminal, width=160)
    with StudyProgress(runs, console) as progress:
        for name in runs:
            progress.started(name, runs[name])
            progress.stepped(name, 1, 8)
            progress.epoch(name, {"epoch": 1, "timing": {"images_per_second": 1234.5}})
            progress.stepped(name, 2, 8)
            progress.ended(name, "stopped", None)
    text = stream.getvalue()
    assert "error" not in text
    assert ("epoch 1/4, 1,235 images/s" in text) != terminal
    assert "gn:groups=8 1x64 seed 0: stopped\n" in text.replace("\r", "")


def test_live_lines_on_a_terminal():
    stream, runs = io.StringIO(), configs()
    play(StudyProgress(runs, Console(file=stream, force_terminal=True, width=160)), runs)
    text = stream.getvalue()
    for part in ("all trials", "bn 32x2 seed 0", "100%"):
        assert part in text


def test_work_done_before_does_not_flatter_the_estimate(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    runs = configs()
    progress = StudyProgress(runs, Console(file=io.StringIO()))
    bn, gn = runs
    progress.ended(gn, "finished", None)
    progress.started(bn, runs[bn])
    progress.stepped(bn, 512, 1024)  # continues a run that was half done
    now[0] = 10.0
    progress.stepped(bn, 640, 1024)
    assert progress._whole() == "all trials 81 %, about 0:30 left"


SECONDS = [2.0] * 3 + [4.5] * 6 + [8.0] * 3  # of each epoch, as the pixels of 16, 24 and 32


@pytest.mark.parametrize(
    ("own_size", "stop_epoch", "seconds"),
    [(32, None, SECONDS), (32, 5, SECONDS[:5]), (16, None, [2.0] * 12)],
)
def test_the_time_left_is_right_from_the_start_where_images_grow(
    monkeypatch, own_size, stop_epoch, seconds
):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    config = RunConfig(norm="gn", epochs=12, size_schedule="16:0.25,24:0.75")
    console = Console(file=io.StringIO())
    progress = StudyProgress({"run": config}, console, stop_epoch, own_size=own_size)
    progress.started("run", config)
    progress.stepped("run", 0, 1200)
    for epoch in range(1, len(seconds)):
        now[0] += seconds[epoch - 1]
        progress.stepped("run", 100 * epoch, 1200)
        minutes, rest = progress._whole().split("about ")[1].removesuffix(" left").split(":")
        assert 60 * int(minutes) + int(rest) == pytest.approx(sum(seconds[epoch:]), abs=1)


def test_a_runs_own_size_of_image_counts_before_that_of_the_data(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    config = RunConfig(norm="gn", epochs=2, size_schedule="32:0.5", image_size=64)
    progress = StudyProgress({"run": config}, Console(file=io.StringIO()), None, 224)
    progress.started("run", config)
    progress.stepped("run", 0, 8)
    now[0] = 10.0
    progress.stepped("run", 4, 8)
    assert progress._whole() == "all trials 20 %, about 0:40 left"


def test_no_estimate_without_a_step_made_in_this_start(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    runs = {
        config.run_name(): config
        for config in (RunConfig(norm="gn", epochs=4, seed=seed) for seed in range(12))
    }
    progress = StudyProgress(runs, Console(file=io.StringIO()))
    *before, whole, failing, begun, _ = runs
    for name in before:
        progress.ended(name, "finished", None)
    for name, status in ((whole, "finished"), (failing, "failed")):  # neither trains a step
        progress.started(name, runs[name])
        now[0] += 5.0
        progress.ended(name, status, None)
        assert "left" not in progress._whole()
    progress.started(begun, runs[begun])
    progress.stepped(begun, 3, 7)
    assert progress._whole() == "all trials 87 %"
    progress.stepped(begun, 5, 7)
    assert progress._whole() == "all trials 89 %, about 0:45 left"


def test_a_moved_trial_is_told_and_its_work_counts_as_made_here(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    stream, runs = io.StringIO(), configs()
    progress = StudyProgress(runs, Console(file=stream, width=200))
    bn, gn = runs
    progress.message("cluster local: 1 node")
    progress.started(bn, runs[bn])
    progress.stepped(bn, 0, 1024)
    now[0] = 10.0
    progress.stepped(bn, 768, 1024)
    progress.moved(bn, "its node was lost; goes on elsewhere from epoch 2")
    progress.started(bn, runs[bn])
    progress.stepped(bn, 512, 1024)  # a quarter of the whole in 10 seconds
    assert progress._whole() == "all trials 25 %, about 0:30 left"
    progress.ended(gn, "failed", "never had a place")
    lines = stream.getvalue().splitlines()
    assert lines[0] == "cluster local: 1 node"
    assert lines[2] == "bn 32x2 seed 0: its node was lost; goes on elsewhere from epoch 2"
    assert lines[-1] == "gn:groups=8 1x64 seed 0: failed: never had a place"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.9, "0:59"), (61, "1:01"), (3661, "1:01:01")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_describe():
    assert describe(RunConfig(norm="bn", batch_per_worker=2, epochs=1)) == "bn 8x2 seed 0"
    assert describe(RunConfig(norm="gn+ws", batch_per_worker=2, epochs=1)) == "gn+ws 1x16 seed 0"


@pytest.mark.parametrize("terminal", [True, False])
def test_what_a_trial_says_leaves_the_terminal_as_it_is(terminal):
    stream, runs = io.StringIO(), configs()
    progress = StudyProgress(runs, Console(file=stream, force_terminal=terminal, width=200))
    name, config = next(iter(runs.items()))
    with progress:
        progress.started(name, config)
        progress.ended(name, "failed", "no [b]file[/b] nohost:1234:80: \x1b[31m\x07")
    assert r"failed: no [b]file[/b] nohost:1234:80: \x1b[31m\x07" in stream.getvalue()


def test_runs_that_are_described_alike_are_told_apart_by_what_they_differ_in():
    runs = [
        RunConfig(norm="bn", epochs=1, base_lr=0.1),
        RunConfig(norm="bn", epochs=1, base_lr=0.2),
        RunConfig(norm="gn", epochs=1, base_lr=0.1),
    ]
    assert list(names_of({str(i): run for i, run in enumerate(runs)}).values()) == [
        "bn 8x32 seed 0, base_lr 0.1",
        "bn 8x32 seed 0, base_lr 0.2",
        "gn 1x256 seed 0",
    ]
