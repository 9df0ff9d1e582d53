"""Norms that do not run on all batches, or not as often in the converted network."""

import pytest
import torch
from torch import nn

import groupnorm
from groupnorm.conversion.calibration.fit import FitLimits
from tests.conversion.networks import train_statistics

DATA = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def convert(model, data=DATA, **arguments):
    return groupnorm.convert(
        model, "gn:groups=2", data=data, limits=FitLimits(steps=3), **arguments
    )


class Chooses(nn.Module):
    """A branch for bright batches alone, whose norm takes a convolution's output."""

    def __init__(self, limit):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
        self.branch = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
        self.limit = limit
        self.last = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))

    def forward(self, x):
        h = torch.relu(self.first(x))
        if x.mean() > self.limit:
            h = torch.relu(self.branch(h))
        return self.last(h).mean((2, 3))


def bright(pieces):
    """Batches of 4 images, of which these are bright."""
    return [part + (1.0 if i in pieces else -1.0) for i, part in enumerate(DATA.split(4))]


@pytest.mark.parametrize("pieces", [{1, 2, 3, 5, 6, 7}, {0, 1, 2, 4, 6, 8}])
def test_a_norm_that_runs_on_some_batches_is_fitted_to_these(pieces):
    model = train_statistics(Chooses(0.0)).eval()
    converted, report = convert(model, data=bright(pieces))
    assert [type(m) for m in converted.modules() if isinstance(m, nn.BatchNorm2d)] == []
    # how well a network of random weights can be fitted is not what this is about
    others = ("of their variance", "with an error above")
    assert len([n for n in report.notes if not any(other in n for other in others)]) == 1
    rows = {row.name: row for row in report.layers}
    assert all(row.error < 1 for row in rows.values())
    assert (rows["first.1"].in_front, rows["branch.1"].in_front) == ("first.0", "itself")


def test_a_norm_that_runs_on_one_batch_is_converted_as_without_data():
    model = train_statistics(Chooses(0.0)).eval()
    _, report = convert(model, data=bright({1}))
    assert "on too few batches: branch.1" in report.notes[1]
    with pytest.raises(ValueError, match="none of the norms to convert runs on the data"):
        convert(model, data=bright({1}), only="branch")


def test_a_norm_that_runs_more_seldom_in_the_student_is_named():
    class Repeats(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
            self.again = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))

        def forward(self, x):
            h = self.first(x)
            for _ in range(3 if type(self.first[1]) is nn.BatchNorm2d and x.sum() < 1e9 else 1):
                h = self.again(torch.relu(h))
            return h.mean((2, 3))

    with pytest.raises(ValueError, match=r"again\.1 runs 3 times .* and 1 times .*`only`"):
        convert(train_statistics(Repeats()).eval())
