"""The segmentation task: loss, evaluation, recomputed statistics."""

from contextlib import contextmanager

import pytest
import torch
from torch import nn

from groupnorm.data.batches import Step
from groupnorm.data.segmentation.label_maps import IGNORED
from groupnorm.data.segmentation.memory import MapsInMemory
from groupnorm.training.config import SegmentationConfig
from groupnorm.training.distributed import ALONE
from groupnorm.training.metric import PRECISE, SEGMENTATION
from groupnorm.training.task import EpochTotals, Part
from groupnorm.training.tasks.segmentation import PRECISE_IMAGES, Segmentation
from tests.data.segmentation.tiny_maps import CLASSES, tiny_maps
from tests.tolerances import LAYER

FIRST = Step(0, torch.arange(6))
FIELDS = {"workers": 2, "batch_per_worker": 3, "epochs": 1, "norm": "bn"}
OF_TEST = ("val_mean_iou", "val_pixel_accuracy", "val_loss", "class_iou")


def task(recompute=None, processes=ALONE, data=None, **changes):
    config = SegmentationConfig(**{**FIELDS, **changes})
    return Segmentation(config, MapsInMemory(data or tiny_maps()), recompute, processes)


class Always(nn.Module):
    """Predicts one class at every pixel."""

    def __init__(self, label):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(1, 3, 1, 1))
        with torch.no_grad():
            self.logits[0, label] = 3.0
            self.logits[0, 2] -= 1.0  # the best one where the logits are negated
        self.seen = []

    def forward(self, x):
        self.seen.append((self.training, x))
        return self.logits.expand(len(x), 3, *x.shape[2:])


def test_a_batch_is_cut_into_passes_with_its_maps():
    made = task(accumulate=2)
    images, maps = torch.rand(6, 3, 16, 16), torch.zeros(6, 16, 16, dtype=torch.int64)
    parts = made.split((images, maps), FIRST, 0.0)
    assert [part.examples for part in parts] == [3, 3]
    assert torch.equal(torch.cat([part.inputs[0] for part in parts]), images)


def test_loss_and_wrong_pixels():
    maps = torch.zeros(2, 4, 4, dtype=torch.int64)
    maps[0, 0] = 1
    maps[1, :2] = IGNORED
    (loss,), counts = (
        found.values() if index == 0 else found
        for index, found in enumerate(
            task().losses(Always(0), Part((torch.zeros(2, 3, 4, 4), maps), 2))
        )
    )
    assert counts == {"wrong": 4, "pixels": 24}
    of_class = -torch.tensor([3.0, 0.0, -1.0]).log_softmax(0)
    first, second = (12 * of_class[0] + 4 * of_class[1]) / 16, of_class[0]
    assert loss.item() == pytest.approx(float(first + second) / 2, rel=LAYER)


def test_the_loss_of_a_step_is_the_mean_over_equal_parts():
    """Though the parts have different numbers of pixels that count."""
    made, model = task(), Always(1)
    ((images, maps),) = MapsInMemory(tiny_maps()).train([Step(0, torch.arange(24))])
    maps[:12, 3:] = IGNORED
    whole = made.losses(model, Part((images, maps), 24))[0]["loss"]
    halves = [
        made.losses(model, Part((images[part], maps[part]), 12))[0]["loss"]
        for part in (slice(0, 12), slice(12, 24))
    ]
    assert sum(halves).item() / 2 == pytest.approx(whole.item(), rel=LAYER)


def test_training_accuracy_is_of_the_pixels_that_count():
    totals = EpochTotals({"loss": 1.0}, {"wrong": 3, "pixels": 12}, 2)
    assert task().training_metrics(totals) == {"train_pixel_accuracy": 75.0}
    nothing = EpochTotals({"loss": 0.0}, {"wrong": 0, "pixels": 0}, 2)
    assert task().training_metrics(nothing) == {"train_pixel_accuracy": None}


def test_evaluation_sees_every_image_once_and_names_its_metrics():
    model, made, data = Always(0), task(), tiny_maps()
    metrics = made.evaluate(model, reported=True)
    share = 100 * float((data.test_maps == 0).sum() / (data.test_maps != IGNORED).sum())
    assert metrics["val_pixel_accuracy"] == pytest.approx(share)
    assert metrics["val_mean_iou"] == pytest.approx(share / 3)
    assert metrics["class_iou"] == dict(zip(CLASSES, (pytest.approx(share), 0, 0), strict=True))
    assert [metrics[PRECISE + name] for name in OF_TEST] == [None] * 4
    names = {metric.name for metric in SEGMENTATION}
    assert names == {*OF_TEST[:3], "train_pixel_accuracy", "train_loss"}
    assert model.training
    assert not any(training for training, _ in model.seen)
    assert sum(len(x) for _, x in model.seen) == data.test_size


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
    assert made.evaluate(Always(0), reported=False)["precise_val_mean_iou"] is None
    assert given == []
    metrics = made.evaluate(Always(0), reported=True)
    assert metrics["class_iou"]["background"] > 0 == metrics["precise_class_iou"]["background"]
    assert metrics["precise_class_iou"]["frame"] > 0
    assert metrics["precise_val_loss"] > metrics["val_loss"]
    (batches,) = given
    assert [len(batch) for batch in batches] == [6] * (min(24, PRECISE_IMAGES) // 6)


def test_an_infinite_loss_is_stored_as_none():
    model = Always(0)
    with torch.no_grad():
        model.logits.fill_(float("nan"))
    assert task().evaluate(model, reported=False)["val_loss"] is None


def test_layout():
    model, made = Always(0), task(memory_format="channels_last")
    maps = torch.zeros(4, 8, 8, dtype=torch.long)
    made.losses(model, Part((torch.rand(4, 3, 8, 8), maps), 4))
    made.evaluate(model, reported=False)
    assert all(x.is_contiguous(memory_format=torch.channels_last) for _, x in model.seen)
