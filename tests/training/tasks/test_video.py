"""The video task: loss, evaluation, centring over time, recomputed statistics."""

from contextlib import contextmanager

import pytest
import torch
from torch import nn

from groupnorm.data.batches import Step
from groupnorm.data.video.clips import Sampling
from groupnorm.data.video.memory import VideosInMemory
from groupnorm.training.config import VideoConfig
from groupnorm.training.distributed import ALONE, Processes
from groupnorm.training.metric import PRECISE, VIDEO
from groupnorm.training.task import EpochTotals, Part
from groupnorm.training.tasks.video import PRECISE_CLIPS, VideoClassification, network_input
from tests.data.video.tiny_videos import tiny_videos
from tests.tolerances import STEP

FIRST = Step(0, torch.arange(6))
FIELDS = {"workers": 2, "batch_per_worker": 3, "epochs": 1, "norm": "bn", "frames": 4}
OF_TEST = (
    "val_accuracy", "val_accuracy_top5", "one_clip_accuracy", "one_clip_accuracy_top5", "val_loss",
)  # fmt: skip


def data(**changes):
    return VideosInMemory(tiny_videos(**changes), Sampling(4, 1), test_clips=3)


def task(recompute=None, processes=ALONE, **changes):
    return VideoClassification(VideoConfig(**{**FIELDS, **changes}), data(), recompute, processes)


class Always(nn.Module):
    """Predicts one class with certainty."""

    def __init__(self, label):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(1, 4))
        with torch.no_grad():
            self.logits[0, label] = 3.0
            self.logits[0, 3] -= 1.0  # the best one where the logits are negated
        self.seen = []

    def forward(self, x):
        self.seen.append((self.training, x))
        return self.logits.expand(len(x), 4)


def test_training_accuracy():
    made = task()
    (part,) = made.split((torch.zeros(6, 3, 4, 8, 8), torch.arange(6) % 4), FIRST, 0.0)
    _, counts = made.losses(Always(0), part)
    assert (part.examples, counts) == (6, {"wrong": 4})
    totals = EpochTotals({"loss": 1.0}, {"wrong": 3}, 12)
    assert made.training_metrics(totals) == {"train_accuracy": 75.0}


def test_evaluation_sees_every_clip_once_and_names_its_metrics():
    model, made = Always(2), task()
    metrics = made.evaluate(model, reported=True)
    assert metrics["val_accuracy"] == metrics["one_clip_accuracy"] == pytest.approx(100 * 3 / 11)
    assert metrics["val_accuracy_top5"] == 100.0
    assert [metrics[PRECISE + name] for name in OF_TEST] == [None] * 5
    assert {*OF_TEST} | {"train_accuracy", "train_loss"} == {metric.name for metric in VIDEO}
    assert model.training
    assert not any(training for training, _ in model.seen)
    assert sum(len(x) for _, x in model.seen) == 11 * 3


def test_recomputed_statistics_are_used_in_the_last_epochs_only():
    given = []

    @contextmanager
    def recompute(model, batches):
        given.append(list(batches))
        with torch.no_grad():
            model.logits.neg_()
        yield
        with torch.no_grad():
            model.logits.neg_()

    made = task(recompute)
    assert made.evaluate(Always(0), reported=False)["precise_val_accuracy"] is None
    assert given == []
    metrics = made.evaluate(Always(0), reported=True)
    assert metrics["val_accuracy"] == pytest.approx(100 * 3 / 11)
    assert metrics["precise_val_accuracy"] == pytest.approx(100 * 2 / 11)
    assert metrics["precise_val_loss"] != metrics["val_loss"]
    (batches,) = given
    assert [len(batch) for batch in batches] == [6] * (min(24, PRECISE_CLIPS) // 6)


def test_statistics_are_recomputed_over_the_same_clips_however_many_processes():
    whole = list(task(centre_time=True).batches_for_statistics())
    halves = list(task(None, Processes(1, 2), centre_time=True).batches_for_statistics())
    together = [torch.cat([a, b]) for a, b in zip(halves[:4], halves[4:], strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(whole, together, strict=True))


def test_centring_takes_the_still_picture_out_everywhere():
    clips = torch.rand(2, 3, 4, 8, 8) + torch.rand(2, 3, 1, 8, 8)
    config = VideoConfig(**FIELDS, centre_time=True)
    centred = network_input(clips, config)
    assert centred.mean(2).abs().max() < STEP
    torch.testing.assert_close(centred[:, :, 1] - centred[:, :, 0], clips[:, :, 1] - clips[:, :, 0])
    assert network_input(clips, VideoConfig(**FIELDS)) is clips
    model, made = Always(0), task(centre_time=True)
    made.losses(model, Part((clips, torch.zeros(2, dtype=torch.long)), 2))
    made.evaluate(model, reported=False)
    seen = [x for _, x in model.seen] + list(made.batches_for_statistics())
    assert all(x.mean(2).abs().max() < STEP for x in seen)


def test_an_infinite_loss_is_stored_as_none():
    model = Always(0)
    with torch.no_grad():
        model.logits.fill_(float("nan"))
    assert task().evaluate(model, reported=False)["val_loss"] is None


def test_layout():
    model, made = Always(0), task(memory_format="channels_last")
    made.losses(model, Part((torch.rand(4, 3, 4, 8, 8), torch.zeros(4, dtype=torch.long)), 4))
    made.evaluate(model, reported=False)
    formats = {x.is_contiguous(memory_format=torch.channels_last_3d) for _, x in model.seen}
    assert formats == {True}
    assert all(x.is_contiguous() for x in task().batches_for_statistics())
