"""Moments of groups."""

import pytest
import torch

from groupnorm.export.moments import group_moments, group_offsets
from tests.export.networks import images
from tests.tolerances import DOUBLE


@pytest.mark.parametrize("shape", [(3, 6), (2, 6, 5), (2, 6, 3, 4), (2, 6, 2, 3, 2)], ids=str)
def test_they_are_those_of_the_definition(shape):
    x = 3 * images(*shape) + 10
    var, mean = group_moments(x, 2)
    eps = torch.tensor([1e-5, 1.0], dtype=torch.float64)
    offsets = group_offsets(var, mean, eps)
    for n in range(shape[0]):
        for g in range(2):
            group = x[n, 3 * g : 3 * g + 3].double().flatten()
            expected = (group - group.mean()).square().mean()
            torch.testing.assert_close(mean[n, g], group.mean(), rtol=DOUBLE, atol=DOUBLE)
            torch.testing.assert_close(var[n, g], expected, rtol=DOUBLE, atol=DOUBLE)
            offset = group.mean().abs() / (expected + eps[g]).sqrt()
            torch.testing.assert_close(offsets[n, g], offset, rtol=DOUBLE, atol=DOUBLE)
