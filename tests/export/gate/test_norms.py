"""The check of each norm by itself."""

import math

import pytest
import torch
from torch import nn

from groupnorm.export.forms import InstanceGroupNorm, PlainGroupNorm, PooledGroupNorm
from groupnorm.export.gate.norm_inputs import NormRecorder
from groupnorm.export.gate.norms import (
    EXAMPLE,
    SMALL,
    WORST,
    NormCheck,
    NormsAlone,
    check_norms,
    nearest,
)
from tests.export.gate.test_norm_inputs import Pyramid
from tests.export.networks import form_norm, images
from tests.tolerances import LAYER


def alone(network, *runs, one_image=False):
    recorder = NormRecorder(network)
    for x in runs:
        with recorder.run(), torch.no_grad():
            network(x)
    return NormsAlone(recorder.recorded, one_image)


def checked(own, x, run=None, on=EXAMPLE):
    """The check of one norm, run by PyTorch or by another function of its input."""
    made = alone(nn.Sequential(own), x)
    given = made.given(on)
    with torch.no_grad():
        found = (made if run is None else run)(*given)
    (check,) = check_norms(made, on, [y.numpy() for y in found], x.dtype)
    return check


@pytest.mark.parametrize("form", [PlainGroupNorm, InstanceGroupNorm, PooledGroupNorm])
@pytest.mark.parametrize("offset", [0, 100, 1e4])
def test_every_form_passes(form, offset):
    assert checked(form_norm(form), images(2, 16, 8, 8) + offset).passed


@pytest.mark.parametrize("offset", [0, 1000])
def test_an_activation_is_left_out(offset):
    assert checked(form_norm(activation="silu"), images(2, 16, 8, 8) + offset).passed


def raw_moments(own):
    """Group norm as E[x^2] - E[x]^2."""

    def run(x):
        grouped = x.reshape(2, 4, -1)
        mean = grouped.mean(2, keepdim=True)
        var = (grouped * grouped).mean(2, keepdim=True) - mean * mean
        y = ((grouped - mean) * torch.rsqrt(var.clamp(min=0) + own.eps)).reshape(2, 16, 8, 8)
        return [y * own.weight.view(1, -1, 1, 1) + own.bias.view(1, -1, 1, 1)]

    return run


def test_moments_of_raw_values_fail_far_from_zero():
    own, x = form_norm(), images(2, 16, 8, 8)
    assert checked(own, x, raw_moments(own)).passed
    check = checked(own, x + 100, raw_moments(own))
    assert not check.passed
    assert check.error > check.allowed


def test_an_eps_off_by_ten_fails():
    own, other = form_norm(), form_norm(eps=1e-4)
    assert not checked(own, images(2, 16, 8, 8), lambda x: [other(x)]).passed


def test_an_eps_off_by_ten_is_seen_on_the_example_though_not_far_from_zero():
    """There the bound is loose: a thousand times that of values around 0."""
    own, other = form_norm(), form_norm(eps=1e-4)
    x = images(2, 16, 8, 8)
    made = alone(nn.Sequential(own), x, x + 1000)
    passed = {}
    for on in (EXAMPLE, WORST):
        with torch.no_grad():
            found = [other(*made.given(on)).numpy()]
        passed[on] = [one.passed for one in check_norms(made, on, found, x.dtype)]
    assert passed == {EXAMPLE: [False], WORST: [True]}


def test_an_eps_off_by_ten_is_seen_where_the_variance_is_eps():
    """As of pixels from 0 to 255, beside whose variance no eps shows."""
    own, other = form_norm(), form_norm(eps=1e-4)
    made = alone(nn.Sequential(own), images(2, 16, 8, 8) * 255)
    passed = {}
    for on in (EXAMPLE, WORST, SMALL):
        with torch.no_grad():
            found = [other(*made.given(on)).numpy()]
        passed[on] = [one.passed for one in check_norms(made, on, found, torch.float32)]
    assert passed == {EXAMPLE: [True], WORST: [True], SMALL: [False]}
    variances = made.given(SMALL)[0].reshape(2, 4, -1).var(2, correction=0)
    assert float(variances.mean()) == pytest.approx(own.eps, rel=LAYER)


def test_the_larger_input_is_the_one_that_is_written():
    x = images(1, 16, 8, 8)
    made = alone(nn.Sequential(form_norm()), x, 100 + images(1, 16, 10, 12))
    assert tuple(made.largest[0].shape) == (1, 16, 10, 12)
    made = alone(nn.Sequential(form_norm()), 100 + x, images(1, 16, 10, 12))
    assert tuple(made.largest[0].shape) == (1, 16, 8, 8)


def test_what_is_not_finite_or_of_another_shape_fails():
    own = form_norm()
    for broken in (lambda x: [x * math.nan], lambda x: [x[:1]]):
        check = checked(own, images(2, 16, 8, 8), broken)
        assert check.error == math.inf
        assert not check.passed


def test_half_input():
    assert checked(form_norm().half(), images(2, 16, 8, 8).half()).passed


def test_a_norm_of_maps_of_two_sizes_is_there_twice():
    made = alone(Pyramid(), images(1, 16, 8, 8), images(1, 16, 8, 12))
    assert [tuple(x.shape) for x in made.given(EXAMPLE)] == [(1, 16, 8, 8), (1, 16, 4, 6)]
    assert made.axes == ((3,), (3,))
    with torch.no_grad():
        found = {on: [y.numpy() for y in made(*made.given(on))] for on in (EXAMPLE, WORST)}
    checks = [c for on in found for c in check_norms(made, on, found[on], torch.float32)]
    assert [(one.on, one.passed) for one in checks] == [(EXAMPLE, True), (WORST, True)]
    assert checks[1].ratio > 50 > checks[0].ratio


def test_axes_that_do_not_change_are_fixed():
    assert alone(nn.Sequential(form_norm()), images(1, 16, 8, 8)).axes == ()


def test_one_image_is_the_worst_one():
    x = images(3, 16, 8, 8)
    x[1] += 100
    made = alone(nn.Sequential(form_norm()), x, images(4, 16, 8, 8), one_image=True)
    assert torch.equal(made.given(WORST)[0], x[1:2])
    assert made.given(EXAMPLE)[0].shape == (1, 16, 8, 8)
    assert made.axes == ()


def test_the_nearest_of_each_norm():
    near, far = NormCheck("a", "plain", EXAMPLE, 0, 0.9, 1), NormCheck("a", "plain", WORST, 9, 5, 9)
    other = NormCheck("b", "plain", WORST, 9, math.inf, 0)
    assert nearest([far, near, other]) == [near, other]
