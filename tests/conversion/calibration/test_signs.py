"""The search for signs: what it finds, and what it never does."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groupnorm.conversion.calibration.signs import least_signs
from tests.tolerances import FORMULA_64


def covariance(groups, d, seed, rows=40):
    samples = torch.randn(
        groups, rows, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    samples = samples @ samples[:, :d, :d] if d <= rows else samples
    return samples.mT @ samples / rows


def value(matrix, signs):
    return torch.einsum("gi,gij,gj->g", signs, matrix, signs)


def generator():
    return torch.Generator().manual_seed(0)


@given(st.integers(1, 3), st.integers(1, 8), st.integers(0, 100))
@settings(max_examples=25, deadline=None)
def test_the_best_of_all_signs_of_few_channels_is_found(groups, d, seed):
    matrix = covariance(groups, d, seed)
    signs = least_signs(matrix, generator())
    every = [
        value(matrix, torch.tensor(s, dtype=torch.float64).expand(groups, d))
        for s in product((1.0, -1.0), repeat=d)
    ]
    best = torch.stack(every).min(0).values
    assert torch.allclose(value(matrix, signs), best, rtol=FORMULA_64, atol=FORMULA_64)
    assert torch.equal(signs.abs(), torch.ones_like(signs))


def test_planted_signs_are_found():
    """Channels that are each other's copies but for signs, half of them each way."""
    planted = torch.ones(2, 16, dtype=torch.float64)
    planted[0, ::2] = -1
    planted[1, :8] = -1
    common = torch.ones(2, 16, 16, dtype=torch.float64)
    matrix = common + 1e-3 * torch.eye(16, dtype=torch.float64)
    signs = least_signs(matrix, generator())
    assert signs.sum(1).tolist() == [0, 0]
    twisted = planted.unsqueeze(1) * matrix * planted.unsqueeze(2)
    assert (least_signs(twisted, generator()) * planted).sum(1).tolist() == [0, 0]


def test_signs_balance_where_that_is_asked():
    matrix = torch.diag_embed(torch.ones(1, 12, dtype=torch.float64))
    matrix[0, 0, 1] = matrix[0, 1, 0] = -0.5
    assert least_signs(matrix, generator(), balance=1.0).sum().item() == 0


@pytest.mark.parametrize("d", [3, 30, 200])
def test_no_worse_than_all_positive_and_the_same_for_a_seed(d):
    matrix = covariance(2, d, d)
    signs = least_signs(matrix, generator())
    assert (value(matrix, signs) <= value(matrix, torch.ones_like(signs))).all()
    before = torch.get_rng_state()
    assert torch.equal(signs, least_signs(matrix, generator()))
    assert torch.equal(before, torch.get_rng_state())


def test_a_group_of_constants_is_no_endless_search():
    zero = torch.zeros(1, 4, 4, dtype=torch.float64)
    assert least_signs(zero, generator()).abs().sum().item() == 4
    assert least_signs(zero, generator(), balance=1.0).sum().item() == 0
