"""A run's record: what it leaves, and that kill -9 at any moment changes nothing."""

import functools
import json
import random
import shutil
import subprocess
import sys
import time

import pytest
import torch

from groupnorm.spec import NormSpec
from groupnorm.study.record import named_run, record_run
from groupnorm.study.store import StoreError, read_metrics, read_run, to_json
from groupnorm.training.checkpoint import CheckpointError, checkpoint_step
from groupnorm.training.config import RunConfig
from groupnorm.training.loop import train

CONFIG = RunConfig(
    model="resnet8", width=0.25, data="digits", norm="bn", workers=8, batch_per_worker=4, epochs=12
)

pytestmark = pytest.mark.xdist_group("record")  # one whole run to compare with


def without_timing(rows):
    return [{key: value for key, value in row.items() if key != "timing"} for row in rows]


def weights(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    threads = torch.get_num_threads()
    record_run(CONFIG, folder, threads=1)
    torch.set_num_threads(threads)
    return folder


def worker(folder, config=CONFIG):
    """A process that trains `config` in `folder`, and says a line after each epoch."""
    folder.mkdir(exist_ok=True)
    if not (folder / "config.json").exists():
        (folder / "config.json").write_text(to_json(config.model_dump()))
    code = (
        "import sys; from pathlib import Path\n"
        "from groupnorm.study.record import record_run\n"
        "from groupnorm.study.store import read_config\n"
        "folder = Path(sys.argv[1])\n"
        "config = read_config(folder)\n"
        "record_run(config, folder, threads=1, on_epoch=lambda m: print(m, flush=True))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_bits(uninterrupted, tmp_path):
    folder = tmp_path / "killed"
    kill_at_random(folder, CONFIG)
    assert_the_same_bits(folder, uninterrupted)


def kill_at_random(folder, config):
    """Train to the end, killed up to four times on the way."""
    draw = random.Random()  # other moments every time: the result may not depend on them
    kills = 0
    while not (folder / "DONE").exists():
        with worker(folder, config) as process:
            first_line = process.stdout.readline()
            if kills < 4 and first_line:
                time.sleep(draw.uniform(0, 0.6))
                process.kill()
                kills += process.wait() == -9
            else:
                process.stdout.read()
                assert process.wait(timeout=300) == 0
    assert kills >= 2, "the run ended before it could be killed twice; make it longer"


def assert_the_same_bits(folder, uninterrupted, config=CONFIG):
    expected = without_timing(read_metrics(uninterrupted))
    assert without_timing(read_metrics(folder)) == expected
    assert len(expected) == config.epochs
    theirs, ours = weights(uninterrupted), weights(folder)
    for key in ("model", "optimizer"):
        assert equal(ours[key], theirs[key]), key
    for key in ("epoch", "step"):
        assert ours["progress"][key] == theirs["progress"][key], key
    cost = json.loads((folder / "env.json").read_text())["cost"]
    assert cost["images"] == config.step_images


def fine_tuned(init, **changes):
    """A run with frozen statistics, as in fine-tuning, from the last weights of another."""
    return CONFIG.model_copy(
        update={
            "norm": NormSpec.parse("frozenbn"), "init": init.run_name(), "decay_norms": False,
            "warmup_steps": 3, "warmup_from": 0.25, "clip_norm": 1.0, "base_lr": 0.02, **changes,
        }
    )  # fmt: skip


@pytest.mark.slow
def test_fine_tuned_and_killed_it_ends_with_the_same_bits(uninterrupted, tmp_path):
    (tmp_path / CONFIG.run_name()).symlink_to(uninterrupted)
    tuned = fine_tuned(CONFIG)
    record_run(tuned, tmp_path / "whole", threads=1)
    kill_at_random(tmp_path / "killed", tuned)
    assert_the_same_bits(tmp_path / "killed", tmp_path / "whole", tuned)


def test_it_starts_from_the_last_weights_of_another_run(uninterrupted, tmp_path):
    """And needs them no more once it has a checkpoint of its own."""
    tuned = fine_tuned(CONFIG, epochs=2, train_images=64)
    whole = record_run(tuned, tmp_path / "whole", threads=1, init=uninterrupted)
    scratch = record_run(tuned.model_copy(update={"init": None}), tmp_path / "scratch", threads=1)
    last = read_metrics(uninterrupted)[-1]["val_loss"]
    far, near = (abs(r.metrics[0]["val_loss"] - last) for r in (scratch, whole))
    assert near < 0.1 * far

    beside = tmp_path / CONFIG.run_name()
    beside.symlink_to(uninterrupted)
    record_run(tuned, tmp_path / "stopped", threads=1, stop_epoch=1)
    beside.unlink()
    resumed = record_run(tuned, tmp_path / "stopped", threads=1)
    assert without_timing(resumed.metrics) == without_timing(whole.metrics)
    for folder in (tmp_path / "whole", tmp_path / "stopped"):
        env = json.loads((folder / "env.json").read_text())
        assert env["init"] == {
            "run": CONFIG.run_name(), "loaded": len(weights(uninterrupted)["model"]),
            "left_out": [], "fresh": [],
        }  # fmt: skip
        assert "continued_with" not in env


def test_a_start_that_is_not_there_or_not_finished_is_named(uninterrupted, tmp_path):
    tuned, beside = fine_tuned(CONFIG), tmp_path / CONFIG.run_name()
    with pytest.raises(StoreError, match=rf"weights of {beside.name}, which is missing in"):
        record_run(tuned, tmp_path / "tuned", threads=1)
    shutil.copytree(uninterrupted, beside)
    (beside / "DONE").write_text(to_json({"status": "diverged", "reason": "loss nan"}))
    with pytest.raises(StoreError, match=r"which is diverged in .* \(loss nan\)\. Train it to"):
        record_run(tuned, tmp_path / "tuned", threads=1)
    other = fine_tuned(CONFIG.model_copy(update={"seed": 1}))
    with pytest.raises(CheckpointError, match=r"belongs to run .*, not to bn-8x4-s1-"):
        record_run(other, tmp_path / "other", threads=1, init=uninterrupted)
    (beside / "DONE").write_text(to_json({"status": "finished", "reason": None}))
    (beside / "checkpoint.pt").write_bytes((beside / "checkpoint.pt").read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match=r"delete it and DONE beside it, and train that run"):
        record_run(tuned, tmp_path / "tuned", threads=1)
    (beside / "checkpoint.pt").unlink()
    with pytest.raises(ValueError, match=r"checkpoint\.pt is missing"):
        record_run(tuned, tmp_path / "tuned", threads=1)


def test_weights_that_do_not_fit_are_refused(uninterrupted, tmp_path):
    wide = fine_tuned(CONFIG, width=0.5)
    with pytest.raises(ValueError, match=r"do not fit this run's resnet8: size mismatch for"):
        record_run(wide, tmp_path, threads=1, init=uninterrupted)


def test_a_run_is_named_by_its_folder_or_its_name(uninterrupted, tmp_path):
    assert named_run(str(uninterrupted)) == (CONFIG.run_name(), uninterrupted)
    assert named_run(CONFIG.run_name()) == (CONFIG.run_name(), None)
    for text in (str(tmp_path), str(tmp_path / "none"), "", "bn"):
        with pytest.raises(ValueError, match=r"init takes the folder of a run, .* got"):
            named_run(text)


def test_what_a_record_holds(uninterrupted):
    env = json.loads((uninterrupted / "env.json").read_text())
    assert env["threads"] == 1
    assert env["torch"] == torch.__version__
    assert env["parameters"] > 1000
    assert env["cost"]["saved_bytes_per_image"] > 1000
    assert "norm_share" not in env["cost"]  # a time, which a run beside others cannot take
    assert json.loads((uninterrupted / "DONE").read_text()) == {
        "status": "finished",
        "reason": None,
    }
    rows = read_metrics(uninterrupted)
    assert [row["epoch"] for row in rows] == list(range(1, CONFIG.epochs + 1))
    assert rows[-1]["train_loss"] < rows[0]["train_loss"], "it learns"
    precise = [row["precise_val_error"] for row in rows]
    assert precise[:-5] == [None] * (CONFIG.epochs - 5)
    assert all(0 <= error <= 100 for error in precise[-5:])


def test_stopped_after_an_epoch_it_goes_on_to_the_same_bits(tmp_path):
    short = CONFIG.model_copy(update={"epochs": 3, "train_images": 64})
    whole, folder = record_run(short, tmp_path / "whole", threads=1), tmp_path / "stopped"
    for stop in (1, 2):
        result = record_run(short, folder, threads=1, stop_epoch=stop)
        assert (result.status, result.reason) == ("stopped", f"after {stop} of 3 epochs")
        assert not (folder / "DONE").exists()
        found = read_run(folder)
        assert (found.status, len(found.metrics)) == ("partial", stop)
    result = record_run(short, folder, threads=1)
    assert result.status == "finished"
    assert without_timing(result.metrics) == without_timing(whole.metrics)
    assert equal(weights(folder)["model"], weights(tmp_path / "whole")["model"])
    assert equal(weights(folder)["optimizer"], weights(tmp_path / "whole")["optimizer"])


def test_another_seed_gives_other_numbers(uninterrupted, tmp_path):
    other = CONFIG.model_copy(update={"seed": 1, "epochs": 1})
    result = record_run(other, tmp_path, threads=1)
    assert result.metrics[0]["train_loss"] != read_metrics(uninterrupted)[0]["train_loss"]


def test_a_folder_of_another_configuration_is_refused(uninterrupted):
    other = CONFIG.model_copy(update={"seed": 5})
    with pytest.raises(CheckpointError, match="holds another run"):
        record_run(other, uninterrupted, threads=1)


def test_a_damaged_checkpoint_is_named(tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt does not end.*delete it"):
        record_run(CONFIG, tmp_path, threads=1)


def test_a_run_stopped_within_its_first_epoch_goes_on(tmp_path, monkeypatch):
    """Its checkpoint holds no epoch yet."""
    monkeypatch.setattr("groupnorm.run.train.train", functools.partial(train, save_seconds=0))
    short = CONFIG.model_copy(update={"epochs": 1, "train_images": 128})
    whole = record_run(short, tmp_path / "whole", threads=1).metrics

    def stop(step, total):
        if step == 3:
            raise KeyboardInterrupt

    folder = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        record_run(short, folder, threads=1, on_step=stop)
    assert checkpoint_step(folder / "checkpoint.pt") == 2
    assert without_timing(record_run(short, folder, threads=1).metrics) == without_timing(whole)


def test_divergence_is_a_result(tmp_path):
    hot = CONFIG.model_copy(update={"norm": NormSpec("none"), "base_lr": 1e8, "epochs": 2})
    result = record_run(hot, tmp_path, threads=1)
    assert result.status == "diverged"
    assert "loss" in result.reason
    assert json.loads((tmp_path / "DONE").read_text())["status"] == "diverged"


def test_a_run_keeps_the_threads_it_began_with(tmp_path):
    """A reduction's bits depend on their number."""
    threads = torch.get_num_threads()
    short = CONFIG.model_copy(update={"epochs": 2, "train_images": 64})
    seen = []
    try:
        record_run(short, tmp_path, threads=1, stop_epoch=1)
        record_run(
            short, tmp_path, threads=2, on_epoch=lambda _: seen.append(torch.get_num_threads())
        )
    finally:
        torch.set_num_threads(threads)
    assert set(seen) == {1}
    assert read_run(tmp_path).env["threads"] == 1
