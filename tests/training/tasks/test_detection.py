"""Detection: parts of whole workers and what they draw, losses, average precision."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from groupnorm.data import AnnotatedBatches
from groupnorm.run.detection import build, load, make_task
from groupnorm.run.tasks import config_class
from groupnorm.training.distributed import ALONE, Processes
from groupnorm.training.loop import train
from groupnorm.training.metric import BOX_DETECTION, MASK_DETECTION
from tests.data.detection.tiny_garments import FIELDS, tiny_garments
from tests.processes import in_processes
from tests.tolerances import STEP, TWENTY_STEPS

pytestmark = pytest.mark.usefixtures("scenes_on_disk")


def made(processes=ALONE, double=False, **changes):
    """Configuration, model and task on the tiny garments."""
    fields = {**FIELDS, **changes}
    if fields.get("model") == "retinanet_narrow":
        fields["norms"] = {}
    config = config_class(fields)(**fields)
    data = load(config, "cpu", tiny_garments())
    model = build(config, data, "cpu")
    if double:
        model.double()
    return config, model, make_task(config, data, model, processes)


def batch_of(task, rows=slice(None)):
    step = task.steps(1)[0]
    return next(task.data.train([step], rows)), step


def test_passes_are_whole_workers_with_generators_of_their_own():
    _, _, whole = made(workers=4)
    _, _, task = made(workers=4, accumulate=2)
    batch, step = batch_of(task)
    (one,), parts = whole.split(batch, step, 0.0), task.split(batch, step, 0.5)
    assert [part.examples for part in parts] == [4, 4]
    for place, expected in enumerate((batch.images, batch.targets)):
        assert [id(x) for part in parts for x in part.inputs[place]] == [id(x) for x in expected]
    drawn = [g.get_state().tolist() for part in parts for g in part.inputs[2]]
    assert drawn == [g.get_state().tolist() for g in one.inputs[2]]
    assert len({tuple(state) for state in drawn}) == 4


def test_a_process_has_the_generators_of_its_workers():
    _, _, whole = made(workers=4)
    batch, step = batch_of(whole)
    (one,) = whole.split(batch, step, 0.0)
    found = []
    for rank in range(2):
        processes = Processes(rank, 2)
        _, _, task = made(processes, workers=4)
        share, step = batch_of(task, processes.shard(8))
        found += task.split(share, step, 0.0)[0].inputs[2]
    assert [g.get_state().tolist() for g in found] == [
        g.get_state().tolist() for g in one.inputs[2]
    ]


@pytest.mark.parametrize("model", ["mask_rcnn_narrow", "retinanet_narrow"])
@pytest.mark.parametrize("empty", [1, 4])
def test_images_without_objects(model, empty):
    _, network, task = made(model=model)
    batch, step = batch_of(task)
    for target in batch.targets[:empty]:
        for key in ("boxes", "labels", "masks"):
            target[key] = target[key][:0]
    (part,) = task.split(batch, step, 0.0)
    losses, counts = task.losses(network, part)
    assert counts == {}
    assert len(losses) == (5 if "mask" in model else 2)
    total = sum(losses.values())
    total.backward()
    assert torch.isfinite(total)
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


def test_losses_of_half_precision_are_single():
    _, network, task = made(precision="bfloat16")
    batch, step = batch_of(task)
    losses, _ = task.losses(network, task.split(batch, step, 0.0)[0])
    assert {loss.dtype for loss in losses.values()} == {torch.float32}


class Answers(nn.Module):
    """A detector that says what it is told, and whether it was asked in evaluation mode."""

    def __init__(self, answer):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.answer, self.modes = answer, []

    def forward(self, images, *_):
        self.modes.append(self.training)
        return [self.answer(image) for image in images]


def nothing(image):
    masks = torch.zeros(0, 1, *image.shape[1:])
    return {
        "boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64),
        "scores": torch.zeros(0), "masks": masks,
    }  # fmt: skip


def truth_of(task):
    """The right answer of every test image, by its pixels."""
    found = {}
    for images, targets in task.data.test():
        for image, target in zip(images, targets, strict=True):
            scores = torch.linspace(0.9, 0.8, len(target["labels"]))
            masks = target["masks"][:, None].float()
            found[image.sum().item()] = {
                "boxes": target["boxes"], "labels": target["labels"], "scores": scores,
                "masks": masks,
            }  # fmt: skip
    return lambda image: found[image.sum().item()]


def test_right_answers_have_100_and_no_answers_0():
    _, _, task = made()
    right = Answers(truth_of(task))
    metrics = task.evaluate(right, reported=True)
    assert set(right.modes) == {False}
    assert right.training
    for name in ("box_ap", "box_ap50", "mask_ap", "mask_ap75"):
        assert metrics[name] == pytest.approx(100.0)
        assert {value for value in metrics["ap_folds"][name] if value is not None} == {100.0}
    curves = metrics["precision_at_recall"]
    assert list(curves) == ["box_ap50", "box_ap75", "mask_ap50", "mask_ap75"]
    assert curves["box_ap75"] == [100.0] * 101
    assert (metrics["recall"], metrics["precision"]) == (100.0, 100.0)
    assert 0.8 <= metrics["score_threshold"] <= 0.9
    found = task.evaluate(Answers(nothing), reported=False)
    assert (found["box_ap"], found["mask_ap"], found["recall"]) == (0.0, 0.0, 0.0)
    assert (found["precision"], found["score_threshold"]) == (None, None)
    assert found["precise_box_ap"] is None
    assert not found.keys() & {"ap_folds", "precision_at_recall"}
    assert {m.name for m in task.metrics} - {"train_loss"} < found.keys()
    assert task.metrics == MASK_DETECTION


def test_a_second_box_on_an_object_costs_precision_alone():
    _, _, task = made()
    right = truth_of(task)

    def twice(image):
        return {key: torch.cat([values, values]) for key, values in right(image).items()}

    metrics = task.evaluate(Answers(twice), reported=False)
    assert (metrics["recall"], metrics["precision"]) == (100.0, 50.0)


def test_answers_that_are_not_finite_are_left_out_and_counted():
    _, _, task = made()
    right = truth_of(task)

    def with_nan(image):
        one = {key: torch.cat([values[:1], values]) for key, values in right(image).items()}
        one["scores"][0] = float("nan")
        return one

    metrics = task.evaluate(Answers(with_nan), reported=False)
    assert metrics["box_ap"] == pytest.approx(100.0)
    assert metrics["not_finite"] == 6


def test_a_detector_without_masks_has_no_mask_ap():
    _, model, task = made(model="retinanet_narrow")
    metrics = task.evaluate(model, reported=True)
    assert task.metrics == BOX_DETECTION
    assert not any(key.startswith("mask") for key in metrics)


def test_recomputed_statistics_are_used_in_reported_epochs_only():
    _, model, task = made(norm="bn", workers=4)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert task.evaluate(model, reported=False)["precise_box_ap"] is None
    metrics = task.evaluate(model, reported=True)
    assert metrics["precise_box_ap"] is not None
    assert metrics["precise_recall"] is not None
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Recorded:
    """The task in float64, which remembers the sum of the losses of every pass."""

    def __init__(self, task):
        self.task, self.seen = task, []

    def __getattr__(self, name):
        return getattr(self.task, name)

    def losses(self, model, part):
        images, targets, generators = part.inputs
        targets = [{**target, "boxes": target["boxes"].double()} for target in targets]
        images = [image.double() for image in images]
        found, counts = self.task.losses(model, part._replace(inputs=(images, targets, generators)))
        self.seen.append(sum(loss.item() for loss in found.values()))
        return found, counts

    def evaluate(self, model, *, reported):
        return {}


def trained(fields, processes=ALONE):
    """Losses of every step of this process, and the weights and statistics at the end."""
    config, model, task = made(processes, double=True, **{"workers": 4, **fields})
    recorded = Recorded(task)
    train(config, model, recorded, processes=processes)
    losses = np.array(recorded.seen).reshape(-1, config.accumulate).mean(1)
    return losses, {key: value.detach().numpy() for key, value in model.state_dict().items()}


CASES = [
    {"norm": "gn:groups=8"},
    {"norm": "bn", "box_head": "4conv1fc", "norms": {}},
    {"norm": "frozenbn", "model": "retinanet_narrow"},
]


def assert_same(found, whole):
    np.testing.assert_allclose(found[0], whole[0], rtol=STEP)
    for key, value in whole[1].items():
        allowed = TWENTY_STEPS * max(1.0, float(np.abs(value).max()))
        np.testing.assert_allclose(found[1][key], value, rtol=0, atol=allowed, err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("fields", CASES, ids=str)
def test_passes_compute_what_one_pass_does(fields):
    whole = trained(fields)
    assert whole[0][-1] < whole[0][0]
    assert_same(trained({**fields, "accumulate": 4}), whole)


def work(rank, count):
    return [trained(fields, Processes(rank, count)) for fields in CASES]


@pytest.mark.slow
@pytest.mark.xdist_group("processes")
@pytest.mark.usefixtures("_fork_server")
def test_one_process_equals_many():
    found = in_processes(4, work)
    for number, fields in enumerate(CASES):
        whole = trained(fields)
        losses = np.mean([of_rank[number][0] for of_rank in found], axis=0)
        for of_rank in found:
            assert_same((losses, of_rank[number][1]), whole)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["mask_rcnn_narrow", "retinanet_narrow"])
def test_it_finds_what_it_was_trained_on(model):
    """The test scenes are the training scenes: losses fall and AP is high."""
    fields = {"model": model, "workers": 4, "steps": 240, "evaluate_every": 1000}
    config, network, task = made(**fields)
    task = make_task(config, load_again(task), network, ALONE)
    metrics = train(config, network, task)
    assert metrics[-1]["train_loss"] < 0.4 * metrics[0]["train_loss"]
    assert metrics[-1]["box_ap50"] > 90
    assert metrics[-1].get("mask_ap50", 100.0) > 85


def load_again(task):
    """The data whose test images are its training images."""
    data = task.data.data
    return AnnotatedBatches(replace(data, test=data.train), test_batch=8, in_memory=True)
