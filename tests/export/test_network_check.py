"""The comparison of a written network with the network in float64."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from groupnorm.export.errors import ExportError
from groupnorm.export.inputs import Inputs
from groupnorm.export.network_check import PLUS, TIMES, compare, difference, expect
from tests.export.networks import convolutional, images


def run_of(network):
    """A runtime that is PyTorch."""

    def run(arrays):
        with torch.no_grad():
            return [network(*map(torch.from_numpy, arrays)).numpy()]

    return run


def expected(network, tolerance=None, dtype=torch.float32):
    inputs = Inputs("example", (images(2, 3, 8, 8).to(dtype),))
    exact, own = copy.deepcopy(network).double(), copy.deepcopy(network).to(dtype)
    return expect(inputs, exact, [own], dtype, tolerance)


def test_the_network_itself_passes_and_one_with_another_eps_does_not():
    network = convolutional()
    assert compare(run_of(network), expected(network)).passed
    check = compare(run_of(convolutional(eps=1e-2)), expected(network))
    assert not check.passed
    assert check.error > check.allowed == TIMES * check.pytorch + PLUS


def test_a_tolerance_takes_the_place_of_the_rule():
    network, other = convolutional(), convolutional(eps=1e-2)
    assert compare(run_of(other), expected(network, tolerance=1.0)).passed


def test_half_types_have_roundings_allowed():
    network = convolutional()
    own = copy.deepcopy(network).half()
    check = compare(run_of(own), expected(network, dtype=torch.float16))
    assert check.passed
    assert check.allowed >= TIMES * torch.finfo(torch.float16).eps / 2 * check.largest


def test_what_is_not_finite_fails_whatever_is_allowed():
    network = convolutional()
    check = compare(lambda _: [np.full((2, 16, 8, 8), np.nan)], expected(network, tolerance=1e9))
    assert check.error == math.inf
    assert not check.passed


def test_where_pytorch_is_not_finite_the_roundings_alone_are_allowed():
    network = convolutional()
    inputs = Inputs("example", (images(2, 3, 8, 8),))
    broken = copy.deepcopy(network)
    with torch.no_grad():
        broken[4].bias[0] = math.inf
    found = expect(inputs, copy.deepcopy(network).double(), [broken], torch.float32, None)
    assert found.pytorch == math.inf
    assert found.allowed == PLUS


def test_other_outputs_are_refused():
    with pytest.raises(ExportError, match=r"outputs of shapes \[\(2,\)\] were expected, got "):
        difference([np.zeros(3)], [np.zeros(2)])
    with pytest.raises(ExportError, match="must give tensors, got str"):
        expected(Says())
    with pytest.raises(ExportError, match=r"does not run on inputs of shape \[\(2, 3, 8, 8\)\]"):
        expected(nn.Conv2d(4, 4, 1))
    with pytest.raises(ExportError, match="not finite in float64"):
        expected(nn.Sequential(nn.Conv2d(3, 4, 1), Infinite()))


class Says(nn.Module):
    def forward(self, x):
        return "hello"


class Infinite(nn.Module):
    def forward(self, x):
        return x / 0
