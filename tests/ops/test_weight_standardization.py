"""Standardized weights: their moments, their gradients, and what does not matter."""

import pytest
import torch

from groupnorm.ops.weight_standardization import WS_FORMS, standardize
from tests.tolerances import ROUNDOFF, ZERO_64, bound


def test_filters_have_mean_zero_and_biased_variance_one():
    w = standardize(torch.randn(5, 3, 3, 3, dtype=torch.float64) * 7 + 4)
    assert w.mean((1, 2, 3)).abs().max() < ZERO_64
    assert torch.allclose(w.var((1, 2, 3), correction=0), torch.ones(5, dtype=torch.float64))


@pytest.mark.parametrize("form", WS_FORMS)
def test_scale_and_shift_of_the_weights_do_not_matter(form):
    w = torch.randn(5, 3, 3, 3, dtype=torch.float64)
    assert torch.allclose(standardize(3 * w - 2, form, 1e-12), standardize(w, form, 1e-12))


@pytest.mark.parametrize("form", WS_FORMS)
def test_equal_weights_give_zeros_and_a_finite_gradient(form):
    w = torch.full((2, 3, 3, 3), 0.3, requires_grad=True)
    standardized = standardize(w, form)
    # 0.3 is rounded, and with it the mean: eps decides how much of that is left.
    assert standardized.abs().max() <= 2 * ROUNDOFF[torch.float32] * 0.3 / min(WS_FORMS[form], 1e-5)
    (gradient,) = torch.autograd.grad(standardized, w, torch.randn_like(w))
    assert gradient.isfinite().all()
    zeros = torch.zeros(2, 3, 3, 3, requires_grad=True)
    assert torch.equal(standardize(zeros, form), torch.zeros(2, 3, 3, 3))
    (gradient,) = torch.autograd.grad(standardize(zeros, form), zeros, torch.randn_like(w))
    assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_weights_are_standardized_in_float32(dtype):
    w = (torch.randn(5, 3, 3, 3) * 1e-4 + 3e-4).to(dtype)
    expected = standardize(w.double())
    largest = float(expected.abs().max())
    assert standardize(w).dtype == dtype
    assert (standardize(w).double() - expected).abs().max() <= bound(dtype, 5, largest, largest)


@pytest.mark.parametrize("form", WS_FORMS)
@pytest.mark.parametrize("groups", [None, 2])
def test_the_gradient_flows_through(form, groups):
    w = torch.randn(4, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: standardize(w, form, transposed_groups=groups), (w,))
