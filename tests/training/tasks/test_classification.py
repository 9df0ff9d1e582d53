"""The classification task: loss, evaluation, recomputed statistics."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import nn

from groupnorm.data import ImageSet, InMemory
from groupnorm.data.batches import Step
from groupnorm.training.config import RunConfig
from groupnorm.training.distributed import Processes
from groupnorm.training.task import EpochTotals, Part
from groupnorm.training.tasks.classification import PRECISE_IMAGES, Classification
from tests.tolerances import LAYER


def images(n, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 1, 4, 4), generator=generator, dtype=torch.uint8)


DATA = ImageSet(
    name="tiny", version="1", train_images=images(20, 0), train_labels=torch.arange(20) % 2,
    test_images=images(10, 1), test_labels=torch.arange(10) % 2, class_names=("a", "b"),
    flip=True, pad=1,
)  # fmt: skip
STEP = Step(0, torch.arange(6))
CONFIG = RunConfig(workers=2, batch_per_worker=3, epochs=1, norm="bn")


class Always(nn.Module):
    """Predicts one class with certainty, or what it is told."""

    def __init__(self, label):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([[0.0, 0.0]]))
        with torch.no_grad():
            self.logits[0, label] = 3.0
        self.seen = []

    def forward(self, x):
        self.seen.append((self.training, x))
        return self.logits.expand(len(x), 2)


def test_loss_and_wrong_answers():
    task = Classification(CONFIG, InMemory(DATA), None)
    (part,) = task.split((torch.zeros(6, 1, 4, 4), torch.arange(6) % 2), STEP, 0.0)
    losses, counts = task.losses(Always(0), part)
    assert (part.examples, counts) == (6, {"wrong": 3})
    (loss,) = losses.values()
    sure = torch.log(1 + torch.exp(torch.tensor(-3.0)))
    assert loss.item() == pytest.approx(float((sure + 3 + sure) / 2), rel=LAYER)


def test_a_batch_is_cut_into_passes_of_whole_workers():
    config = RunConfig(workers=4, batch_per_worker=2, accumulate=2, epochs=1, norm="bn")
    task = Classification(config, InMemory(DATA), None)
    pixels, labels = torch.rand(8, 1, 4, 4), torch.arange(8)
    parts = task.split((pixels, labels), STEP, 0.0)
    assert [part.examples for part in parts] == [4, 4]
    assert torch.equal(torch.cat([part.inputs[0] for part in parts]), pixels)
    assert torch.cat([part.inputs[1] for part in parts]).tolist() == list(range(8))


def test_images_grow_with_the_run():
    config = RunConfig(workers=1, batch_per_worker=8, epochs=1, size_schedule="2:0.3,3:0.7")
    task = Classification(config, InMemory(DATA), None)
    sizes = [
        part.inputs[0].shape[-1]
        for progress in (0, 0.29, 0.3, 0.69, 0.7, 0.99)
        for part in task.split((torch.rand(8, 1, 4, 4), torch.arange(8)), STEP, progress)
    ]
    assert sizes == [2, 2, 3, 3, 4, 4]


def test_the_steps_of_an_epoch():
    task = Classification(CONFIG, InMemory(DATA), None)
    assert task.steps_per_epoch == 3
    seen = [index for step in task.steps(1) for index in step.indices.tolist()]
    assert len(seen) == len(set(seen)) == 18
    assert [s.seed for s in task.steps(1)] != [s.seed for s in task.steps(2)]


def test_the_training_error_is_of_the_epochs_images():
    task = Classification(CONFIG, InMemory(DATA), None)
    totals = EpochTotals({"loss": 1.0}, {"wrong": 3}, 12)
    assert task.training_metrics(totals) == {"train_error": 25.0}


def test_evaluation_sees_every_test_image_unaugmented_once():
    task = Classification(CONFIG, InMemory(DATA), None)
    model = Always(1)
    metrics = task.evaluate(model, reported=True)
    assert metrics["val_error"] == 50.0
    assert metrics["precise_val_error"] is None
    ((training, seen),) = model.seen
    assert not training
    assert model.training
    back = (seen * DATA.std.view(1, 1, 1) + DATA.mean.view(1, 1, 1)) * 255
    assert torch.equal(back.round().to(torch.uint8), DATA.test_images)


def test_recomputed_statistics_are_used_in_the_last_epochs_only():
    given = []

    @contextmanager
    def recompute(model, batches):
        given.append(list(batches))
        with torch.no_grad():
            model.logits.copy_(-model.logits)
        yield
        with torch.no_grad():
            model.logits.copy_(-model.logits)

    data = replace(DATA, test_labels=torch.zeros(10, dtype=torch.long))
    task = Classification(CONFIG, InMemory(data), recompute)
    assert task.evaluate(Always(0), reported=False)["precise_val_error"] is None
    assert given == []
    metrics = task.evaluate(Always(0), reported=True)
    assert (metrics["val_error"], metrics["precise_val_error"]) == (0.0, 100.0)
    (batches,) = given
    assert [len(batch) for batch in batches] == [6] * (min(20, PRECISE_IMAGES) // 6)


def test_statistics_are_recomputed_over_the_same_images_however_many_processes():
    given = {}
    for processes in (Processes(), Processes(1, 2)):

        @contextmanager
        def recompute(model, batches, processes=processes):
            given[processes.count] = list(batches)
            yield

        task = Classification(CONFIG, InMemory(DATA), recompute, processes)
        task.recompute(None, task.batches_for_statistics()).__enter__()
    assert [len(batch) for batch in given[2]] == [3] * 6
    halves = given[2]
    together = [torch.cat([a, b]) for a, b in zip(halves[:3], halves[3:], strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(given[1], together, strict=True))


def test_infinite_validation_loss_is_stored_as_none():
    model = Always(0)
    with torch.no_grad():
        model.logits.fill_(float("nan"))
    metrics = Classification(CONFIG, InMemory(DATA), None).evaluate(model, reported=False)
    assert metrics["val_loss"] is None


def test_layout():
    config = CONFIG.model_copy(update={"memory_format": "channels_last"})
    model = Always(0)
    task = Classification(config, InMemory(DATA), None)
    task.losses(model, Part((torch.zeros(4, 3, 4, 4), torch.zeros(4, dtype=torch.long)), 4))
    assert model.seen[0][1].is_contiguous(memory_format=torch.channels_last)


def test_without_a_probed_module_nothing_is_recorded():
    task = Classification(CONFIG, InMemory(DATA), None)
    assert "response_percentiles" not in task.evaluate(Always(0), reported=False)
