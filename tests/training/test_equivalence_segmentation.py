"""One process with W workers and many processes compute the same training of a U-Net.

As `test_equivalence` has it for classifiers: twenty steps in float64, every step's loss, the
weights, the running statistics and the evaluation; with pixels that are ignored, of which images,
workers and processes have different numbers.
"""

import functools

import numpy as np
import pytest
import torch

from groupnorm.conversion import recomputed_statistics
from groupnorm.data.segmentation.label_maps import IGNORED
from groupnorm.data.segmentation.memory import MapsInMemory
from groupnorm.layers import norm_layer
from groupnorm.models import build_segmentation_model
from groupnorm.training.config import SegmentationConfig
from groupnorm.training.distributed import ALONE, Processes
from groupnorm.training.loop import train
from groupnorm.training.tasks.segmentation import Segmentation
from tests.child import needs_processes
from tests.data.segmentation.tiny_maps import tiny_maps
from tests.processes import in_processes
from tests.tolerances import STEP, TWENTY_STEPS

pytestmark = needs_processes

# number of processes: fields of the configuration, and those in which one process differs
CASES = {
    8: [
        ({"norm": "bn"}, {}),
        ({"norm": "gn:groups=4"}, {"workers": 1, "batch_per_worker": 16}),
    ],
    2: [({"norm": "bn", "accumulate": 2}, {"accumulate": 1})],
}
ALL = [
    pytest.param(count, number, id=f"{count} processes, {fields}")
    for count, cases in CASES.items()
    for number, (fields, _) in enumerate(cases)
]


class Recorded(Segmentation):
    """The task in float64; it remembers the loss of every pass."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.seen = []

    def prepared(self, inputs):
        return super().prepared(inputs).double()

    def losses(self, model, part):
        losses, counts = super().losses(model, part)
        self.seen.append(losses["loss"].item())
        return losses, counts


def trained(fields, processes=ALONE):
    """Losses of every step made (of this process), weights and statistics, metrics."""
    defaults = {"workers": 8, "batch_per_worker": 2, "steps": 20, "base_lr": 1.6}
    config = SegmentationConfig(**{**defaults, **fields})
    norm = norm_layer(config.norm, batch_per_worker=config.batch_per_worker)
    torch.manual_seed(config.seed)
    model = build_segmentation_model("unet_narrow", norm=norm, num_classes=3).double()
    recompute = recomputed_statistics if config.uses_batch_statistics else None
    data = tiny_maps(train=160, test=70)
    data.train_maps[::3, 4:9] = IGNORED
    task = Recorded(config, MapsInMemory(data), recompute, processes)
    metrics = train(config, model, task, processes=processes)
    losses = np.array(task.seen).reshape(-1, config.accumulate).mean(1)
    state = {key: value.detach().numpy() for key, value in model.state_dict().items()}
    kinds = ("iou", "accuracy", "loss")
    rows = [{key: row[key] for key in row if any(k in key for k in kinds)} for row in metrics]
    return losses, state, rows


def work(rank, count):
    return [trained(fields, Processes(rank, count)) for fields, _ in CASES[count]]


@functools.cache
def in_many(count):
    return in_processes(count, work)


@functools.cache
def in_one(fields):
    return trained(dict(fields))


@pytest.mark.slow
@pytest.mark.parametrize(("count", "number"), ALL)
def test_equals_one_process(count, number):
    fields, others = CASES[count][number]
    losses, state, rows = in_one(tuple(sorted({**fields, **others}.items())))
    assert losses[-5:].mean() < losses[0] - 0.1, "nothing was learned: the test sees nothing"
    found = [result[number] for result in in_many(count)]
    np.testing.assert_allclose(
        np.mean([one[0] for one in found], axis=0), losses, rtol=TWENTY_STEPS
    )
    for _, ours, metrics in found:
        assert ours.keys() == state.keys()
        for key, value in state.items():
            allowed = TWENTY_STEPS * max(1.0, float(np.abs(value).max()))
            np.testing.assert_allclose(ours[key], value, rtol=0, atol=allowed, err_msg=key)
        for row, expected in zip(metrics, rows, strict=True):
            assert row.keys() == expected.keys()
            for key, value in expected.items():
                assert row[key] == (value if value is None else pytest.approx(value, rel=STEP)), key
        uses_statistics = SegmentationConfig(steps=1, norm=fields["norm"]).uses_batch_statistics
        assert (rows[-1]["precise_val_mean_iou"] is not None) == uses_statistics


@pytest.mark.slow
def test_a_worker_more_is_another_experiment_for_batch_norm():
    """The comparison can fail: statistics over 4 images instead of 2."""
    two = in_one((("norm", "bn"),))
    four = trained({"norm": "bn", "workers": 4, "batch_per_worker": 4})
    assert np.abs(two[0] - four[0]).max() > 1e3 * TWENTY_STEPS
