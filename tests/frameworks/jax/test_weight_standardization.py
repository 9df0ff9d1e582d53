"""Standardized kernels of flax are PyTorch's, transposed."""

import re

import numpy as np
import pytest
import torch

from groupnorm.ops import weight_standardization as torchs
from tests.tolerances import DOUBLE, STEP, bound

pytest.importorskip("jax")
import jax
import jax.numpy as jnp

from groupnorm.frameworks.jax import WS_FORMS, standardize
from tests.frameworks.jax.arrays import numbers

KERNELS = [(3, 3, 4, 6), (5, 2, 8), (3, 3, 3, 2, 4), (1, 1, 7, 3), (9, 5), (3, 3, 1, 8)]


def torch_order(kernel):
    """(*k, in, out) as (out, in, *k)."""
    return torch.from_numpy(np.moveaxis(np.moveaxis(np.array(kernel), -1, 0), -1, 1).copy())


def test_the_forms_are_the_same():
    assert WS_FORMS == torchs.WS_FORMS


@pytest.mark.parametrize("form", torchs.WS_FORMS)
@pytest.mark.parametrize("shape", KERNELS, ids=str)
def test_values_and_gradients(form, shape):
    draw = np.random.default_rng(0)
    kernel, cotangent = draw.normal(1.0, 2.0, shape), draw.standard_normal(shape)
    w = torch_order(kernel).requires_grad_()
    expected = torchs.standardize(w, form)
    (gradient,) = torch.autograd.grad(expected, w, torch_order(cotangent))
    with jax.enable_x64(True):
        found, pull_back = jax.vjp(lambda k: standardize(k, form), jnp.asarray(kernel))
        (found_gradient,) = pull_back(jnp.asarray(cotangent))
        assert found.dtype == "float64"
    np.testing.assert_allclose(torch_order(found), expected.detach(), rtol=DOUBLE, atol=DOUBLE)
    np.testing.assert_allclose(torch_order(found_gradient), gradient, rtol=DOUBLE, atol=DOUBLE)


@pytest.mark.parametrize("form", torchs.WS_FORMS)
def test_equal_weights_give_zeros_and_a_finite_gradient(form):
    kernel = jnp.full((3, 3, 4, 2), 0.5)
    found, pull_back = jax.vjp(lambda k: standardize(k, form), kernel)
    assert (found == 0).all()
    assert jnp.isfinite(pull_back(jnp.ones_like(kernel))[0]).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_kernels_are_standardized_in_float32(dtype):
    kernel = jnp.asarray(np.random.default_rng(0).normal(3e-4, 1e-4, (3, 3, 4, 6)), dtype)
    expected = torchs.standardize(torch_order(numbers(kernel)).double())
    found = standardize(kernel)
    assert found.dtype == dtype
    largest = float(expected.abs().max())
    error = (torch_order(numbers(found)).double() - expected).abs().max()
    assert error <= bound(getattr(torch, dtype), 5, largest, largest)


def test_eps_is_the_one_given():
    kernel = np.random.default_rng(0).standard_normal((3, 3, 4, 6)).astype(np.float32)
    other = torchs.standardize(torch_order(kernel), "timm", 0.5)
    np.testing.assert_allclose(torch_order(standardize(kernel, "timm", 0.5)), other, atol=STEP)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((3, 3, 4, 6), "timn"), "unknown form of weight standardization 'timn'; known: timm, bit"),
        (((3, 3, 4, 6), "timm", 1.5), "eps must lie between 0 and 1, got 1.5"),
        (((3, 3, 4, 6), "timm", 0.0), "eps must lie between 0 and 1, got 0.0"),
        (((1, 1, 1, 6),), "a filter of one weight is standardized to 0, got weights of shape (1,"),
        (((6,),), "got weights of shape (6,)"),
    ],
)
def test_bad_input(arguments, message):
    shape, *others = arguments
    with pytest.raises(ValueError, match=re.escape(message)):
        standardize(jnp.ones(shape), *others)


def test_integers_are_refused():
    with pytest.raises(ValueError, match=r"floating-point numbers, got int32 of shape \(3, 2, 4\)"):
        standardize(jnp.ones((3, 2, 4), "int32"))
