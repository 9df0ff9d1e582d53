"""Data and networks that a fit is refused for, or warned of."""

import pytest
import torch
from torch import nn

import groupnorm
from groupnorm.conversion.calibration.fit import FitLimits
from tests.conversion.networks import small_network

DATA = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def convert(model, data=DATA):
    return groupnorm.convert(model, "gn:groups=2", data=data, limits=FitLimits(steps=3))


def test_data_of_another_scale_than_those_of_the_training():
    model = small_network().eval()
    for refused in (0.0, 1 / 255):
        with pytest.raises(ValueError, match=r"stem\.1, the first norm, varies .*normalized"):
            convert(model, data=refused * DATA)
    for factor in (0.2, 20.0):
        with pytest.warns(UserWarning, match="times as much on the data"):
            _, report = convert(model, data=factor * DATA)
        assert report.notes[-1].startswith("The input of stem.1, the first norm, varies")
    for ordinary in (0.7, 2.0):
        assert convert(model, data=ordinary * DATA)[1].notes == []


def test_a_network_that_draws_random_numbers_is_refused():
    class Drops(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = small_network()

        def forward(self, x):
            return nn.functional.dropout(self.body(x), 0.5, training=True)

    with pytest.raises(ValueError, match="another output each time that it runs"):
        convert(Drops())
