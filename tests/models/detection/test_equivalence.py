"""One process with W workers and W processes compute the same training of a detector.

Twenty steps of plain SGD in float64; losses of every step, weights and running statistics are
compared, to rounding. Each worker has one image; some of them have no objects, so that mask and box
head get another number of regions from each.
"""

import functools

import numpy as np
import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from groupnorm.layers import norm_layer
from groupnorm.models import build_detector
from groupnorm.models.detection.workers import worker_generators
from groupnorm.training.distributed import ALONE, Processes
from groupnorm.training.loop import _BUFFERS_STAY
from groupnorm.training.step import running_statistics
from tests.child import needs_processes
from tests.models.detection.scenes import scenes
from tests.processes import in_processes
from tests.tolerances import TWENTY_STEPS

pytestmark = needs_processes

STEPS, LR, MOMENTUM = 20, 0.02, 0.9
MASK = "mask_rcnn_narrow"
CASES = [
    (MASK, "bn", {"box_head": "4conv1fc"}),
    ("retinanet_narrow", "bn", {}),
    (MASK, "gn:groups=8+ws", {}),
    (MASK, "syncbn", {}),
    (MASK, "none", {"norms": {"backbone": "frozenbn"}, "freeze_at": 2}),
]


def objects_of(step, worker):
    return (step + worker) % 3 if worker % 4 else 0


def trained(case, workers, processes=ALONE):
    """Losses of every step (of this process), weights and running statistics."""
    name, norm, options = CASES[case]
    torch.manual_seed(0)
    size = 64 if name.startswith("retina") else 32
    model = build_detector(
        name, norm=norm_layer(norm, batch_per_worker=1), num_classes=5, canvas=size,
        head_init="he", **options,
    ).double()  # fmt: skip
    network = model
    if processes.count > 1:
        network = DistributedDataParallel(model, **_BUFFERS_STAY)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=LR, momentum=MOMENTUM)
    mine = range(workers)[processes.shard(workers)]
    losses = []
    for step in range(STEPS):
        every = [objects_of(step, worker) for worker in range(workers)]
        images, targets = scenes(every, size=size, seed=step % 4, dtype=torch.float64)
        part = slice(mine.start, mine.stop)
        optimizer.zero_grad()
        found = network(images[part], targets[part], worker_generators(0, step, mine))
        loss = sum(found.values())
        loss.backward()
        optimizer.step()
        processes.all_reduce_mean(running_statistics(model))
        losses.append(loss.item())
    return losses, {key: value.detach().numpy() for key, value in model.state_dict().items()}


def work(rank, count, cases):
    return [trained(case, count, Processes(rank, count)) for case in cases]


@functools.cache
def in_many(count, cases):
    return in_processes(count, work, cases)


def assert_same(found, workers, case):
    losses, state = trained(case, workers)
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) - 0.02, "nothing was learned"
    np.testing.assert_allclose(
        np.mean([one[0] for one in found], axis=0), losses, rtol=TWENTY_STEPS
    )
    for _, ours in found:
        assert ours.keys() == state.keys()
        for key, value in state.items():
            allowed = TWENTY_STEPS * max(1.0, float(np.abs(value).max()))
            np.testing.assert_allclose(ours[key], value, rtol=0, atol=allowed, err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 8])
@pytest.mark.parametrize("case", range(len(CASES)), ids=[f"{n}, {norm}" for n, norm, _ in CASES])
def test_equals_one_process(count, case):
    found = in_many(count, tuple(range(len(CASES))))
    assert_same([result[case] for result in found], count, case)


@pytest.mark.slow
def test_a_generator_of_the_process_would_differ():
    """The comparison can fail: anchors and regions drawn as another worker."""
    first, _ = trained(0, 2)
    shifted = [worker_generators(0, step, [1, 0]) for step in range(STEPS)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(trained.__globals__, "worker_generators", lambda _, step, __: shifted[step])
        second, _ = trained(0, 2)
    assert np.abs(np.subtract(first, second)).max() > 1e3 * TWENTY_STEPS
