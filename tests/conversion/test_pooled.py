"""Means and products of several batches are those of all values together."""

import torch

from groupnorm.conversion.pooled import Pooled, add_to
from tests.tolerances import DOUBLE


def test_batches_of_several_sizes_are_as_one():
    x = torch.randn(10, 3, 4, 5, dtype=torch.float64) + 1000
    y = 2 * x + torch.randn_like(x)
    pools = {}
    for rows in (slice(0, 1), slice(1, 6), slice(6, 10)):
        add_to(pools, "layer", Pooled.of(x[rows], y[rows]))
    found = pools["layer"]
    flat = torch.stack([v.transpose(0, 1).flatten(1) for v in (x, y)])
    assert found.values == 200
    torch.testing.assert_close(found.mean, flat.mean(2), rtol=DOUBLE, atol=DOUBLE)
    for c in range(3):
        want = torch.cov(flat[:, c], correction=0) * 200
        torch.testing.assert_close(found.about_mean[..., c], want, rtol=DOUBLE, atol=DOUBLE)


def test_half_values_are_summed_in_double():
    x = torch.full((2, 1, 50_000), 60_000.0, dtype=torch.float16)
    assert Pooled.of(x).mean.item() == 60_000
