"""The activations and their slopes are those of the operation for PyTorch, by the same names."""

import numpy as np
import pytest
import torch

from groupnorm.frameworks.arguments import ACTIVATIONS
from groupnorm.ops.group_norm import activations as torchs
from tests.tolerances import STEP

pytest.importorskip("jax")
import jax
import jax.numpy as jnp

from groupnorm.frameworks.jax.activations import _FORWARD, activate, slope

Z = np.array([-1e3, -20, -3, -1, -1e-3, 0, 1e-3, 0.5, 3, 20, 1e3], np.float32)


def test_the_names_are_the_same():
    assert tuple(_FORWARD) == ACTIVATIONS


@pytest.mark.parametrize("name", torchs.ACTIVATIONS)
def test_values_and_slopes(name):
    z = torch.from_numpy(Z)
    values, slopes = torchs.activate(z, name), torchs.derivative(z, name)
    np.testing.assert_allclose(activate(jnp.asarray(Z), name), values, rtol=STEP, atol=STEP)
    np.testing.assert_allclose(slope(jnp.asarray(Z), name), slopes, rtol=STEP, atol=STEP)
    gradient = jax.grad(lambda z: activate(z, name).sum())(jnp.asarray(Z))
    np.testing.assert_allclose(gradient, slopes, rtol=STEP, atol=STEP)


@pytest.mark.parametrize(
    ("name", "kink", "expected"),
    [("relu", 0, 0), ("leaky_relu", 0, 0.01), ("hardswish", -3, 0), ("hardswish", 3, 1)],
)
def test_the_slope_at_a_kink_is_pytorchs(name, kink, expected):
    z = torch.full((1,), float(kink), requires_grad=True)
    torchs.activate(z, name).backward()
    assert float(slope(jnp.full(1, float(kink)), name)[0]) == z.grad.item()
    assert z.grad.item() == np.float32(expected)


@pytest.mark.parametrize("name", torchs.ACTIVATIONS)
def test_what_is_not_a_number_stays_so(name):
    assert np.isnan(activate(jnp.array([jnp.nan]), name)).all()
