"""The error of outputs is what its definition says."""

import pytest
import torch

from groupnorm.conversion.output_error import OutputError
from tests.tolerances import FORMULA_64


def output_error(outputs):
    error = OutputError()
    for pair in outputs:
        error.add(*pair)
    return error.value


def test_the_error_of_outputs_is_over_the_variance_of_each_channel():
    g = torch.Generator().manual_seed(0)
    want = torch.randn(6, 3, 4, 5, generator=g, dtype=torch.float64) + torch.arange(3).view(3, 1, 1)
    got = want + 0.1 * torch.randn(want.shape, generator=g, dtype=torch.float64)
    spread = want - want.mean((0, 2, 3), keepdim=True)
    expected = float((got - want).square().sum() / spread.square().sum())
    parts = list(zip(want.split(2), got.split(2), strict=True))
    assert output_error(parts) == pytest.approx(expected, rel=FORMULA_64)
    logits = [({"x": w[:, :, 0, 0]}, {"x": g[:, :, 0, 0]}) for w, g in parts]
    assert 0 < output_error(logits) < 1
    assert output_error([(want, got[1:])]) is None
    assert output_error([(torch.ones(3, 2), torch.ones(3, 2))]) is None
