"""The comparison of a written network with the network in float64."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from groupnorm.export.errors import ExportError
from groupnorm.export.gate.inputs import Inputs
from groupnorm.export.gate.network import (
    LEAST,
    PLUS,
    TIMES,
    Reference,
    closeness,
    compare,
    differences,
    expect,
)
from tests.export.networks import convolutional, images
from tests.tolerances import ZERO_64

FLOAT32, FLOAT16 = torch.float32, torch.float16


def given(dtype=FLOAT32):
    return Inputs("example", (images(2, 3, 8, 8).to(dtype),))


def expected(network, tolerance=None, dtype=FLOAT32, prepared=None):
    ready = copy.deepcopy(prepared or network).to(dtype)
    return expect(Reference(network, dtype).on(given(dtype)), ready, dtype, tolerance)


def compared(network, wanted):
    """What a network of PyTorch, as if it were a file, is off."""
    with torch.no_grad():
        return compare([network(*map(torch.from_numpy, wanted.inputs)).numpy()], wanted)


def test_the_network_itself_passes_and_one_with_another_eps_does_not():
    network = convolutional()
    assert compared(network, expected(network)).passed
    check = compared(convolutional(eps=1e-2), expected(network))
    assert not check.passed
    assert check.error > check.allowed == TIMES * check.pytorch + PLUS


def test_of_small_outputs_as_much_is_allowed_as_they_are_large():
    """As of probabilities: 1e-5 is more than an eps three times as large changes in them."""
    head = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Softmax(1))
    network = nn.Sequential(convolutional(8, 64), head).eval()
    wanted = expected(network)
    (largest,) = (float(np.abs(one).max()) for one in wanted.outputs)
    assert largest < 0.2
    assert wanted.allowed == [TIMES * wanted.pytorch[0] + PLUS * largest]
    other = nn.Sequential(convolutional(8, 64, eps=3e-5), head).eval()
    check = compared(other, wanted)
    assert check.error < PLUS
    assert not check.passed
    assert compared(network, wanted).passed


def test_of_outputs_near_zero_a_thousandth_of_that():
    """As of a sigmoid of -20, for which runtimes have 0."""
    wanted = expected(nn.Sequential(convolutional(), Times(1e-9)))
    assert wanted.allowed == [TIMES * wanted.pytorch[0] + PLUS * LEAST]


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


class Two(nn.Module):
    def __init__(self, factor=1.0):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return 1e3 * x, 1e-3 * self.factor * x


def test_each_output_has_its_own_bound():
    """What is a rounding of the first is far too much in the second."""
    wanted = expected(Two())
    with torch.no_grad():
        found = [y.numpy() for y in Two(1 + 1e-3)(*given().tensors)]
    check = compare(found, wanted)
    assert (check.output, check.passed) == (1, False)
    assert check.error < wanted.allowed[0]
    with torch.no_grad():
        assert compare([y.numpy() for y in Two()(*given().tensors)], wanted).passed


def test_a_tolerance_takes_the_place_of_the_rule():
    network, other = convolutional(), convolutional(eps=1e-2)
    assert compared(other, expected(network, tolerance=1.0)).passed


def test_half_types_have_roundings_allowed():
    network = convolutional()
    own = copy.deepcopy(network).half()
    check = compared(own, expected(network, dtype=FLOAT16))
    assert check.passed
    assert check.allowed >= TIMES * torch.finfo(FLOAT16).eps / 2 * check.largest


def test_what_is_not_finite_fails_whatever_is_allowed():
    network = convolutional()
    check = compare([np.full((2, 16, 8, 8), np.nan)], expected(network, tolerance=1e9))
    assert check.error == math.inf
    assert not check.passed


def test_the_smaller_error_of_what_was_given_and_what_was_prepared_is_pytorchs():
    network, broken = convolutional(), convolutional()
    with torch.no_grad():
        broken[4].bias[0] = math.inf
    assert expected(network, prepared=broken).pytorch == expected(network).pytorch
    assert expected(network).pytorch[0] < math.inf


class Overflows(nn.Module):
    def forward(self, x):
        return (x * 1e5) * 1e-5


def test_where_pytorch_is_not_finite_the_roundings_alone_are_allowed():
    found = expected(Overflows(), dtype=FLOAT16)
    (largest,) = (float(np.abs(one).max()) for one in found.outputs)
    assert found.pytorch == [math.inf]
    assert found.allowed == [TIMES * torch.finfo(FLOAT16).eps / 2 * largest]


class Single(nn.Module):
    """Asks for float32 on the way, as diffusers' embeddings of steps do."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x):
        return self.inner(x.float() + torch.arange(8, dtype=torch.float32) / 3)


def test_networks_that_ask_for_float32_are_computed_in_float64():
    network = Single()
    reference = Reference(network, FLOAT32).on(given())
    x = given().tensors[0].double() + torch.arange(8, dtype=torch.float64) / 3
    weight, bias = (p.detach().double() for p in (network.inner.weight, network.inner.bias))
    exact = x @ weight.T + bias
    np.testing.assert_allclose(reference.outputs[0], exact.numpy(), rtol=ZERO_64, atol=ZERO_64)


class NoDoubles(nn.Module):
    def forward(self, x):
        if x.dtype == torch.float64:
            raise TypeError("no doubles here")
        return x


def test_one_that_does_not_run_in_float64_says_so():
    with pytest.raises(ExportError, match=r"does not run in float64, .*\(example: no doubles here"):
        expected(NoDoubles())


class Draws(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)


def test_what_differs_from_run_to_run_is_told_from_what_is_not_finite():
    reference = Reference(convolutional(), FLOAT32)
    reference.check_repeats(reference.on(given()))
    reference = Reference(Draws(), FLOAT32)
    with pytest.raises(ExportError, match="other outputs each time"):
        reference.check_repeats(reference.on(given()))
    with pytest.raises(ExportError, match="output of the network is not finite in float64"):
        Reference(Infinite(), FLOAT32).on(given())


def test_other_outputs_are_refused():
    with pytest.raises(ExportError, match=r"outputs of shapes \[\(2,\)\] were expected, got "):
        differences([np.zeros(3)], [np.zeros(2)])
    with pytest.raises(ExportError, match="must give tensors, got str"):
        expected(Says())
    with pytest.raises(ExportError, match=r"does not run on inputs of shape \[\(2, 3, 8, 8\)\]"):
        expected(nn.Conv2d(4, 4, 1))
    with pytest.raises(ExportError, match=r"example: the file does not run .*: it says no"):
        compare(ExportError("it says no"), expected(convolutional()))


class Says(nn.Module):
    def forward(self, x):
        return "hello"


class Infinite(nn.Module):
    def forward(self, x):
        return x / 0


@pytest.mark.parametrize(
    ("error", "allowed", "found"), [(1.0, 2.0, 0.5), (0.0, 0.0, 0.0), (1e-9, 0.0, math.inf)]
)
def test_how_close_an_error_is(error, allowed, found):
    assert closeness(error, allowed) == found
