"""Checkpoints: what is damaged, or says what cannot be, is refused with the file and the remedy."""

import hashlib
import io
import random

import pytest
import torch
from torch import nn

from groupnorm.training.checkpoint import (
    CheckpointError,
    Progress,
    checkpoint_step,
    load_checkpoint,
    save_checkpoint,
)
from groupnorm.training.config import RunConfig
from groupnorm.training.task import EpochTotals

CONFIG = RunConfig(norm="none", workers=2, batch_per_worker=4, epochs=3)
STEPS = {"steps_per_epoch": 5, "total_steps": 15}


def parts():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    return {"model": model, "optimizer": torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)}


def progress(**changes):
    values = {"epoch": 1, "step": 7, "metrics": [{"epoch": 1}], "seconds": 2.5}
    return Progress(**{**values, "tally": EpochTotals({"a": 3.0}, {"b": 2}, 16), **changes})


def load(content, path, **changes):
    return load_checkpoint(content, path, **{"config": CONFIG, **parts(), **STEPS, **changes})


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, config=CONFIG, progress=progress(), **parts())
    return path


def signed(content):
    """`content` with a digest that matches, as from a program that means harm."""
    return content + b"\ngroupnorm sha256 " + hashlib.sha256(content).hexdigest().encode()


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def refused(content, path):
    """The message, which always names the file and what to do."""
    with pytest.raises(CheckpointError) as error:
        load(content, path)
    message = str(error.value)
    assert message.startswith(str(path))
    assert "; delete it to train this run from the start" in message
    assert "\n" not in message
    return message


def test_a_sound_checkpoint_round_trips(path):
    model = nn.Linear(3, 2)
    found = load(path.read_bytes(), path, model=model)
    assert found == progress()
    assert torch.equal(model.weight, parts()["model"].weight)
    assert checkpoint_step(path) == 7
    assert torch.load(path, weights_only=True)["progress"]["step"] == 7
    assert checkpoint_step(path.with_name("none.pt")) is None


def test_every_flipped_bit_is_refused(path):
    sound = path.read_bytes()
    draw = random.Random(0)
    places = [draw.randrange(len(sound)) for _ in range(60)]
    places += [len(sound) - 1, len(sound) - 64, len(sound) - 65, len(sound) - 81]  # in the digest
    for place in places:
        flipped = bytearray(sound)
        flipped[place] ^= 1 << draw.randrange(8)
        refused(bytes(flipped), path)


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_cut_file_is_refused(path, share):
    sound = path.read_bytes()
    refused(sound[: int(share * len(sound))], path)


def test_a_file_without_a_digest_is_refused_and_the_reason_is_said(path):
    content = path.read_bytes()
    message = refused(content[: content.rindex(b"\ngroupnorm")], path)
    assert "damaged, or an earlier version wrote it, which cannot be told apart" in message


class Harmful:
    def __reduce__(self):
        return print, ("this code ran",)


def test_code_in_the_file_is_neither_run_nor_advised(path, capfd):
    for content in (saved({"progress": Harmful()}), b"\x80\x04cos\nsystem\n(S'true'\ntR."):
        refused(content, path)
        message = refused(signed(content), path)
        assert "perhaps code" in message
        for advice in ("weights_only", "torch.load", "trust", "option", "safe_globals"):
            assert advice not in message
    assert "this code ran" not in capfd.readouterr().out


@pytest.mark.parametrize("value", [[], {}, {"epoch": 1}, 3, torch.zeros(2)])
def test_other_content_is_refused(path, value):
    assert "is not a checkpoint of a run" in refused(signed(saved(value)), path)


def test_another_run_is_refused_with_the_difference(path):
    other = CONFIG.model_copy(update={"seed": 5})
    with pytest.raises(CheckpointError, match="seed was 0, is 5; delete it"):
        load(path.read_bytes(), path, config=other)


@pytest.mark.parametrize(
    "changes",
    [
        {"epoch": -1},
        {"epoch": 2},  # with the metrics of one
        {"epoch": True},
        {"step": -1},
        {"step": 16},
        {"step": 7.0},
        {"step": 5 + 5},  # two whole epochs, and one is done
        {"step": 3},
        {"metrics": []},
        {"metrics": [{"epoch": 2}]},
        {"metrics": [[]]},
        {"metrics": None},
        {"seconds": -1.0},
        {"seconds": float("nan")},
        {"seconds": "long"},
        {"tally": EpochTotals({"a": float("inf")})},
        {"tally": EpochTotals(examples=-3)},
        {"tally": EpochTotals(counts={"b": 0.5})},
        {"tally": EpochTotals(data_seconds=-1e9)},
    ],
)
def test_progress_out_of_range_is_refused(path, changes):
    save_checkpoint(path, config=CONFIG, progress=progress(**changes), **parts())
    refused(path.read_bytes(), path)


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"epoch": 0, "step": 0, "metrics": []}, {}),
        ({"epoch": 1, "step": 5}, {}),
        ({"epoch": 1, "step": 9}, {}),
        ({"epoch": 3, "step": 15, "metrics": [{"epoch": n} for n in (1, 2, 3)]}, {}),
        ({"epoch": 2, "step": 7, "metrics": [{"epoch": 1}, {"epoch": 2}]}, {"total_steps": 7}),
    ],
)
def test_progress_at_the_ends_of_its_range_is_taken(path, changes, steps):
    save_checkpoint(path, config=CONFIG, progress=progress(**changes), **parts())
    assert load(path.read_bytes(), path, **steps) == progress(**changes)


def test_a_state_that_does_not_fit_is_refused(path):
    with pytest.raises(CheckpointError, match=r"do not fit this model; delete it") as error:
        load(path.read_bytes(), path, model=nn.Linear(4, 2))
    assert "\n" not in str(error.value)


def test_a_folder_in_its_place_is_named(path):
    path.unlink()
    path.mkdir()
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: Is a directory; delete it"):
        checkpoint_step(path)
