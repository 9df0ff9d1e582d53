"""The activations against torch.nn.functional, their derivatives against autograd."""

import pytest
import torch
import torch.nn.functional as F

from groupnorm.ops.group_norm.activations import ACTIVATIONS, activate, check_activation, derivative
from tests.tolerances import bound

BY_NAME = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"),
    "mish": F.mish,
    "hardswish": F.hardswish,
}


def test_the_names_are_these():
    assert set(ACTIVATIONS) == set(BY_NAME)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", [None, *ACTIVATIONS])
def test_values_and_derivatives(name, dtype):
    """Kinks (0, -3, 3) and large values included."""
    special = torch.tensor([0.0, -3.0, 3.0, -20.0, 20.0, -90.0, 90.0], dtype=dtype)
    z = torch.cat([special, 4 * torch.randn(500, dtype=dtype)]).requires_grad_()
    y = activate(z, name)
    expected = z if name is None else BY_NAME[name](z)
    assert torch.equal(y, expected)
    dy = torch.randn_like(z)
    (true,) = torch.autograd.grad(expected * 1, z, dy)
    ours = derivative(z.detach(), name) * dy
    assert ours.dtype == dtype
    assert (ours - true).abs().max() <= bound(dtype, 0, 4 * float(dy.abs().max()), 0)


@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_tanh", "mish"])
def test_derivatives_can_be_differentiated(name):
    z = torch.randn(20, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: derivative(t, name), (z,))


def test_unknown_names_raise():
    check_activation(None)
    with pytest.raises(ValueError, match="unknown activation 'swish'; known: None, relu"):
        check_activation("swish")
