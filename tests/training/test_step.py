"""One step's gradients and running statistics, whole and in passes."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from groupnorm.layers import BatchNorm, BatchRenorm
from groupnorm.training.distributed import ALONE
from groupnorm.training.step import accumulate_gradients, running_statistics
from groupnorm.training.task import EpochTotals, Part
from tests.tolerances import DOUBLE, GRADIENTS_64


def network(kind=BatchNorm):
    torch.manual_seed(0)
    norms = [kind(4, batch_per_worker=3), kind(3, batch_per_worker=3)]
    for norm in norms:  # statistics that a batch renormalization is really corrected towards
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), norms[0], nn.ReLU(), nn.Conv2d(4, 3, 3), norms[1], nn.Flatten()
    ).double()


CPU = torch.device("cpu")


def losses(model, part):
    images, labels = part.inputs
    logits = model(images)[:, :5]
    return {"loss": F.cross_entropy(logits, labels)}, {
        "wrong": int((logits.argmax(1) != labels).sum())
    }


def parts(passes):
    pairs = zip(IMAGES.chunk(passes), LABELS.chunk(passes), strict=True)
    return [Part(pair, len(pair[0])) for pair in pairs]


IMAGES = torch.randn(12, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(12) % 5


def step(model, passes, totals=None):
    return accumulate_gradients(
        model, parts(passes), losses, device=CPU, processes=ALONE, totals=totals or EpochTotals()
    )


@pytest.mark.parametrize("kind", [BatchNorm, BatchRenorm])
@pytest.mark.parametrize("passes", [1, 2, 4])
def test_passes_change_nothing(kind, passes):
    """Four workers of three images; against plain autograd on all of them at once.

    Two steps, so that the running statistics left by the first are what the second starts from.
    """
    ours, theirs = network(kind), network(kind)
    for number in range(1, 3):
        for model in (ours, theirs):
            model.zero_grad()
        mean = step(ours, passes)
        expected = losses(theirs, *parts(1))[0]["loss"]
        expected.backward()
        assert mean == pytest.approx(expected.item(), rel=DOUBLE)
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, **GRADIENTS_64)
        for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
            torch.testing.assert_close(a, b, rtol=DOUBLE, atol=GRADIENTS_64["atol"])
        assert ours[1].num_batches_tracked == number


def test_the_totals_add_up_over_steps():
    model, totals = network(), EpochTotals()
    means = [step(model, passes, totals) for passes in (1, 2)]
    _, counts = losses(copy.deepcopy(model), *parts(1))
    assert totals.examples == 24
    assert totals.losses == {"loss": pytest.approx(12 * sum(means))}
    assert totals.counts == {"wrong": 2 * counts["wrong"]}  # the weights have not moved
    assert totals.forward_seconds > 0
    assert totals.backward_seconds > 0


def test_a_loss_that_is_no_number_is_returned_and_not_counted():
    def diverged(model, part):
        total = model(part.inputs[0]).sum()
        return {"fine": total, "lost": total * math.nan}, {}

    totals = EpochTotals()
    mean = accumulate_gradients(
        network(), parts(2), diverged, device=CPU, processes=ALONE, totals=totals
    )
    assert math.isnan(mean)
    assert (totals.losses, totals.examples) == ({}, 12)


def test_running_statistics_are_those_of_all_batch_norms():
    model = nn.Sequential(BatchNorm(2), nn.GroupNorm(1, 2), nn.BatchNorm2d(3), BatchRenorm(4))
    model.append(nn.BatchNorm2d(5, track_running_stats=False))
    assert [len(value) for value in running_statistics(model)] == [2, 2, 3, 3, 4, 4]
