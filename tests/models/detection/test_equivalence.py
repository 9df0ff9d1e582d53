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
from groupnorm.training.distributed import ALONE, Processes
from groupnorm.training.loop import _BUFFERS_STAY
from groupnorm.training.step import running_statistics
from tests.child import needs_processes
from tests.models.detection.scenes import generators, scenes
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
COMPARED = {2: tuple(range(len(CASES))), 8: (0, 1)}
"""Number of processes -> cases."""
ALL = [
    pytest.param(count, case, id=f"{count} processes, {CASES[case][0]}, {CASES[case][1]}")
    for count, cases in COMPARED.items()
    for case in cases
]


def objects_of(batch, worker):
    return (batch + worker) % 3 if worker % 4 else 0


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
        batch = step % 2
        every = [objects_of(batch, worker) for worker in range(workers)]
        images, targets = scenes(every, size=size, seed=batch, dtype=torch.float64)
        part = slice(mine.start, mine.stop)
        optimizer.zero_grad()
        found = network(images[part], targets[part], generators(step, mine))
        loss = sum(found.values())
        loss.backward()
        optimizer.step()
        processes.all_reduce_mean(running_statistics(model))
        losses.append(loss.item())
    return losses, {key: value.detach().numpy() for key, value in model.state_dict().items()}


def work(rank, count):
    return {case: trained(case, count, Processes(rank, count)) for case in COMPARED[count]}


@functools.cache
def in_many(count):
    return in_processes(count, work)


def assert_same(found, workers, case):
    losses, state = trained(case, workers)
    learned = np.sum(losses[:2]) - np.sum(losses[-2:])
    assert learned > 0.02, "nothing was learned: the test sees nothing"
    np.testing.assert_allclose(
        np.mean([one[0] for one in found], axis=0), losses, rtol=TWENTY_STEPS
    )
    for _, ours in found:
        assert ours.keys() == state.keys()
        for key, value in state.items():
            allowed = TWENTY_STEPS * max(1.0, float(np.abs(value).max()))
            np.testing.assert_allclose(ours[key], value, rtol=0, atol=allowed, err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "case"), ALL)
def test_equals_one_process(count, case):
    assert_same([result[case] for result in in_many(count)], count, case)


@pytest.mark.slow
def test_a_generator_of_the_process_would_differ():
    """The comparison can fail: anchors and regions drawn as another worker."""
    first, _ = trained(0, 2)
    shifted = [generators(step, [1, 0]) for step in range(STEPS)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(trained.__globals__, "generators", lambda step, _: shifted[step])
        second, _ = trained(0, 2)
    assert np.abs(np.subtract(first, second)).max() > 1e3 * TWENTY_STEPS
