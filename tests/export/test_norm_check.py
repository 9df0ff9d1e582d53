"""The check of each norm by itself."""

import math

import pytest
import torch

from groupnorm.export.forms import InstanceGroupNorm, PlainGroupNorm, PooledGroupNorm
from groupnorm.export.inputs import Inputs
from groupnorm.export.norm_check import NormsAlone, check_norms, ratios, worst_inputs
from tests.export.networks import images
from tests.tolerances import LAYER


def norm(form=PooledGroupNorm, **options):
    torch.manual_seed(0)
    made = form(4, 16, **options)
    with torch.no_grad():
        made.weight.uniform_(0.5, 1.5)
        made.bias.normal_()
    return made.eval()


def checked(own, x, run=None):
    run = run or alone(own)
    return check_norms(run, {"n": own}, [x], x.dtype)[0]


def alone(own):
    """A runtime that is PyTorch."""
    network = NormsAlone([own])

    def run(arrays):
        with torch.no_grad():
            return [y.numpy() for y in network(*map(torch.from_numpy, arrays))]

    return run


@pytest.mark.parametrize("form", [PlainGroupNorm, InstanceGroupNorm, PooledGroupNorm])
@pytest.mark.parametrize("offset", [0, 100, 1e4])
def test_every_form_passes(form, offset):
    assert checked(norm(form), images(2, 16, 8, 8) + offset).passed


@pytest.mark.parametrize("offset", [0, 1000])
def test_an_activation_is_left_out(offset):
    assert checked(norm(activation="silu"), images(2, 16, 8, 8) + offset).passed


def raw_moments(own):
    """Group norm as E[x^2] - E[x]^2."""

    def run(arrays):
        x = torch.from_numpy(arrays[0]).reshape(2, 4, -1)
        mean = x.mean(2, keepdim=True)
        var = (x * x).mean(2, keepdim=True) - mean * mean
        y = ((x - mean) * torch.rsqrt(var.clamp(min=0) + own.eps)).reshape(2, 16, 8, 8)
        return [(y * own.weight.view(1, -1, 1, 1) + own.bias.view(1, -1, 1, 1)).detach().numpy()]

    return run


def test_moments_of_raw_values_fail_far_from_zero():
    own, x = norm(), images(2, 16, 8, 8)
    assert checked(own, x, raw_moments(own)).passed
    check = checked(own, x + 100, raw_moments(own))
    assert not check.passed
    assert check.error > check.allowed


def test_an_eps_off_by_ten_fails():
    own, other = norm(), norm(eps=1e-4)
    assert not checked(own, images(2, 16, 8, 8), alone(other)).passed


def test_what_is_not_finite_fails():
    own = norm()
    check = checked(own, images(2, 16, 8, 8), lambda a: [a[0] * math.nan])
    assert check.error == math.inf
    assert not check.passed


def test_half_input():
    own = norm().half()
    assert checked(own, images(2, 16, 8, 8).half()).passed


def test_the_worst_input_is_the_farthest_from_zero():
    network = torch.nn.Sequential(norm(), norm())
    every = [Inputs(str(o), (images(2, 16, 8, 8) + o,)) for o in (0, 1000, 10)]
    found = worst_inputs(network, every)
    assert torch.equal(found["0"], every[1].tensors[0])
    assert float(ratios(found["0"], network[0]).max()) > 900
    assert found["1"].shape == (2, 16, 8, 8)


def test_equal_values_count_with_eps():
    x = torch.full((1, 16, 4, 4), 2.0)
    found = ratios(x, norm())
    assert found[0].tolist() == pytest.approx([2 / math.sqrt(1e-5)] * 4, rel=LAYER)


def test_each_group_has_its_eps():
    own = PooledGroupNorm(2, 4, group_eps=torch.tensor([1.0, 4.0]))
    found = ratios(torch.ones(1, 4, 2, 2), own)
    assert found[0].tolist() == pytest.approx([1.0, 0.5], rel=LAYER)
