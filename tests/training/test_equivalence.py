"""One process with W workers and many processes compute the same training.

Twenty steps with momentum and a learning rate that moves the weights, in float64: every step's
loss, the weights, the running statistics and the evaluation are compared, to rounding.
"""

import contextlib
import functools

import numpy as np
import pytest
import torch

from groupnorm.conversion import recomputed_statistics
from groupnorm.data import ImageSet, InMemory
from groupnorm.layers import norm_layer
from groupnorm.models import build_model
from groupnorm.training.checkpoint import CheckpointError
from groupnorm.training.config import RunConfig
from groupnorm.training.distributed import ALONE, Processes
from groupnorm.training.loop import train
from groupnorm.training.tasks.classification import Classification
from tests.child import needs_processes
from tests.processes import in_processes
from tests.tolerances import STEP, TWENTY_STEPS

pytestmark = needs_processes


# case: fields of the configuration, and those in which one process differs that computes the same
SPLIT = {"workers": 1, "batch_per_worker": 32}
CASES = {
    8: [
        ({"norm": "bn"}, {}),
        ({"norm": "gn:groups=4"}, SPLIT),
        ({"norm": "gn:groups=4+ws"}, SPLIT),
        ({"norm": "brn"}, {}),
        ({"norm": "frn"}, SPLIT),
        ({"norm": "syncbn"}, SPLIT),
    ],
    2: [
        ({"norm": "bn"}, {}),
        ({"norm": "bn", "accumulate": 2}, {"accumulate": 1}),
        ({"norm": "brn", "accumulate": 4}, {"accumulate": 1}),
        ({"norm": "gn:groups=4", "accumulate": 4}, {**SPLIT, "accumulate": 1}),
        ({"norm": "syncbn"}, SPLIT),
        ({"norm": "bn", "size_schedule": "4:0.3,6:0.7"}, {}),
    ],
    1: [
        ({"norm": "bn", "accumulate": 4}, {"accumulate": 1}),
        ({"norm": "brn", "accumulate": 2}, {"accumulate": 1}),
        ({"norm": "gn:groups=4", "workers": 2, "batch_per_worker": 16}, SPLIT),
        ({"norm": "gn:groups=4"}, SPLIT),
    ],
}
ALL = [
    pytest.param(
        count, number,
        id=f"{count} processes, {fields}", marks=[pytest.mark.slow] if count > 1 else [],
    )
    for count, cases in CASES.items()
    for number, (fields, _) in enumerate(cases)
]  # fmt: skip


def images(size, seed):
    """Noise with a brighter band of rows, whose place is the class."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 128, (size, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(size) % 4
    for label in range(4):
        pixels[labels == label, :, 2 * label : 2 * label + 2] += 96
    return pixels, labels


def data():
    (train_images, train_labels), (test_images, test_labels) = images(320, 0), images(300, 1)
    return ImageSet(
        name="bands", version="1", train_images=train_images, train_labels=train_labels,
        test_images=test_images, test_labels=test_labels, class_names=tuple("abcd"),
        flip=True, pad=1,
    )  # fmt: skip


class StopError(Exception):
    """The end of a training that is to be resumed."""


class Recorded(Classification):
    """Classification in float64 that remembers the loss of every pass."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.seen = []

    def prepared(self, images):
        return super().prepared(images).double()

    def losses(self, model, part):
        losses, counts = super().losses(model, part)
        self.seen.append(losses["loss"].item())
        return losses, counts


def trained(fields, processes=ALONE, checkpoint=None, stop=False):
    """Losses of every step made (of this process), weights and statistics, metrics.

    With `stop` it ends after the first of its two epochs.
    """
    defaults = {"workers": 8, "batch_per_worker": 4, "steps": 20, "base_lr": 1.6}
    config = RunConfig(**{**defaults, **fields})
    norm = norm_layer(config.norm, batch_per_worker=config.batch_per_worker)
    torch.manual_seed(config.seed)
    model = build_model("resnet8", norm=norm, num_classes=4, in_channels=3, width=0.25).double()
    has_statistics = config.norm.uses_batch_statistics
    recompute = recomputed_statistics if has_statistics else None
    task = Recorded(config, InMemory(data()), recompute, processes)

    def after_epoch(metrics):
        if stop:
            raise StopError

    metrics = []
    with contextlib.suppress(StopError):
        metrics = train(
            config, model, task,
            processes=processes, checkpoint=checkpoint, on_epoch=after_epoch,
        )  # fmt: skip
    losses = np.array(task.seen).reshape(-1, config.accumulate).mean(1)
    state = {key: value.detach().numpy() for key, value in model.state_dict().items()}
    rows = [{key: row[key] for key in row if "error" in key or "loss" in key} for row in metrics]
    return losses, state, rows


def work(rank, count):
    return [trained(fields, Processes(rank, count)) for fields, _ in CASES[count]]


@functools.cache
def in_many(count):
    return in_processes(count, work) if count > 1 else [work(0, 1)]


@functools.cache
def in_one(fields):
    return trained(dict(fields))


@pytest.mark.parametrize(("count", "number"), ALL)
def test_equals_one_process(count, number):
    fields, others = CASES[count][number]
    whole = in_one(tuple(sorted({**fields, **others}.items())))
    losses = whole[0]
    assert losses[-5:].mean() < losses[0] - 0.02, "nothing was learned: the test sees nothing"
    found = [result[number] for result in in_many(count)]
    np.testing.assert_allclose(
        np.mean([one[0] for one in found], axis=0), losses, rtol=TWENTY_STEPS
    )
    for one in found:
        assert_same_end(one, whole)


def assert_same_end(one, whole):
    (_, ours, metrics), (_, state, rows) = one, whole
    assert ours.keys() == state.keys()
    for key, value in state.items():
        allowed = TWENTY_STEPS * max(1.0, float(np.abs(value).max()))
        np.testing.assert_allclose(ours[key], value, rtol=0, atol=allowed, err_msg=key)
    assert len(metrics) == len(rows) == 2
    for row, expected in zip(metrics, rows, strict=True):
        assert {**row, "precise_val_error": 0} == pytest.approx(
            {**expected, "precise_val_error": 0}, rel=STEP
        )
        assert row["precise_val_error"] == expected["precise_val_error"]


@pytest.mark.slow
def test_the_processes_hold_the_same_bits():
    for one, other in zip(*in_many(2), strict=True):
        assert all(np.array_equal(one[1][key], other[1][key]) for key in one[1])


def test_a_worker_more_is_another_experiment_for_batch_norm():
    """The comparison can fail: statistics over 8 images instead of 4."""
    four = in_one((("norm", "bn"),))
    eight = trained({"norm": "bn", "workers": 4, "batch_per_worker": 8})
    assert np.abs(four[0] - eight[0]).max() > 1e3 * TWENTY_STEPS


# fields in two processes, and in the one that it goes on in or from
RESUMED = [
    ({"norm": "bn"}, {"norm": "bn"}),
    ({"norm": "gn:groups=4"}, {"norm": "gn:groups=4", **SPLIT}),
]


def resume(rank, count, folder):
    processes, found = Processes(rank, count), []
    for number, (fields, _) in enumerate(RESUMED):
        trained(fields, processes, folder / f"two-{number}", stop=True)
        # The first process alone sees the file.
        place = folder if rank == 0 else folder / "elsewhere"
        found.append(trained(fields, processes, place / f"one-{number}"))
    return found


def test_resumed_with_another_number_of_processes(tmp_path):
    """From one process to two, and from two to one; for gn with another split of the step."""
    for number, (_, fields) in enumerate(RESUMED):
        trained(fields, checkpoint=tmp_path / f"one-{number}", stop=True)
    found = in_processes(2, resume, tmp_path)
    for number, (_, fields) in enumerate(RESUMED):
        whole = in_one(tuple(sorted(fields.items())))
        for result in found:
            assert len(result[number][0]) == 10
            assert_same_end(result[number], whole)
        again = trained(fields, checkpoint=tmp_path / f"two-{number}")
        assert len(again[0]) == 10
        assert_same_end(again, whole)


@pytest.mark.parametrize("change", [{"workers": 4}, {"batch_per_worker": 8}])
def test_not_resumed_where_batch_norms_meaning_would_change(tmp_path, change):
    path = tmp_path / "checkpoint.pt"
    trained({"norm": "bn"}, checkpoint=path, stop=True)
    (name, value), before = next(iter(change.items())), path.read_bytes()
    with pytest.raises(CheckpointError, match=rf"{name} was \d, is {value}.*meaning would change"):
        trained({"norm": "bn", **change}, checkpoint=path)
    assert path.read_bytes() == before
