"""The fit of a layer: planted solutions are found, and its numbers are those of real layers."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groupnorm.conversion.calibration import fit
from groupnorm.conversion.calibration.fit import (
    FitLimits,
    fit_layer,
    inherited_error,
    relative_error,
)
from groupnorm.conversion.calibration.moments import LayerMoments
from tests.conversion.calibration.layers import (
    applied,
    constants,
    measured_error,
    moments_of,
    random_layer,
    rows,
    split,
)
from tests.tolerances import CLEARLY, FORMULA_64, PRINTED

FOLD_AND_LEAST_SQUARES = FitLimits(signs=False, scale_limit=0, offset_limit=0)
SIGNS = FitLimits(scale_limit=0, offset_limit=0)
SIGNS_AND_SCALES = FitLimits(offset_limit=0)
POSITIVE = FitLimits(signs=False)
EPS = 1e-12  # where a test says that nothing is lost


def planted(mean_x, weights):
    """A layer whose group has constant statistics once its channels are weighted so.

    Args:
        mean_x: sample means (N, C) of standardized channels with (mean_x @ weights) constant.
        weights: (C,).
    """
    n, c = mean_x.shape
    square = mean_x**2 @ weights**2
    rest = square.max() + 0.1 - square  # what the positions must add for a constant variance
    var_x = rest.view(n, 1) / (c * weights**2)
    assert (var_x > 0).all()
    var_y, cov = 4 * var_x, 2 * var_x
    return LayerMoments(mean_x, var_x, 2 * mean_x + 1, var_y, cov)


def test_planted_signs_are_found():
    z = torch.rand(30, dtype=torch.float64)
    z = z - z.mean()
    mean_x = torch.stack([z, z, z.flip(0), z.flip(0)], 1)  # two pairs of equal channels
    layer = planted(mean_x, torch.ones(4, dtype=torch.float64))
    assert fit_layer(layer, 1, eps=EPS, limits=FOLD_AND_LEAST_SQUARES).error > 0.03
    found = fit_layer(layer, 1, eps=EPS, limits=SIGNS)
    assert found.error < FORMULA_64
    assert found.input_scale.sign().view(2, 2).sum(1).tolist() == [0, 0]


def test_planted_scales_are_found():
    """The first channel is the sum of two others, whose means cancel it if all three are scaled."""
    z = torch.rand(40, 2, dtype=torch.float64) - 0.5
    z = z - z.mean(0)
    mean_x = torch.cat([z.sum(1, keepdim=True), z, torch.zeros(40, 1, dtype=torch.float64)], 1)
    layer = planted(mean_x, torch.tensor([1.0, 1.0, 1.0, 1.0], dtype=torch.float64))
    signs = fit_layer(layer, 1, eps=EPS, limits=SIGNS).error
    scales = fit_layer(layer, 1, eps=EPS, limits=SIGNS_AND_SCALES).error
    assert scales < PRINTED * 0.1
    assert scales < 0.1 * signs


def test_offsets_make_the_variance_steady():
    """Means that cancel, and positions whose variance differs from sample to sample."""
    var = torch.rand(30, 1, dtype=torch.float64).expand(30, 8) + 0.5
    mean = torch.zeros(30, 8, dtype=torch.float64)
    layer = LayerMoments(mean, var, mean, var, var)
    without = fit_layer(layer, 1, limits=SIGNS_AND_SCALES)
    found = fit_layer(layer, 1)
    assert without.error > 0.01
    assert found.error < 0.1 * without.error
    assert without.offset_share == 0
    assert found.offset_share > 0.5
    small = fit_layer(layer, 1, limits=FitLimits(offset_limit=1.0))
    assert found.error < small.error < without.error


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
@pytest.mark.parametrize("share", [1.0, 0.5, 0.0])
@pytest.mark.parametrize(("eps", "unit"), [(1e-5, 1.0), (0.3, 1.0), (1e-3, 0.02), (0.3, 50.0)])
def test_the_error_is_that_of_the_layer_on_its_data(groups, share, eps, unit):
    x, y = random_layer()
    x = x * unit
    limits = FitLimits(steps=20)
    moments = moments_of(x, y)
    fit = fit_layer(moments, groups, eps=eps, limits=limits, hybrid=share)
    assert fit.error == pytest.approx(measured_error(fit, x, y), rel=FORMULA_64, abs=FORMULA_64)
    assert relative_error(fit, moments) == pytest.approx(fit.error, rel=FORMULA_64, abs=FORMULA_64)
    other_x, other_y = x[:5] + 1, y[:5] - 0.5
    elsewhere = relative_error(fit, moments_of(other_x, other_y))
    assert elsewhere == pytest.approx(measured_error(fit, other_x, other_y), rel=FORMULA_64)
    if share == 0:
        assert fit.error < FORMULA_64


def test_gamma_and_beta_are_the_regression_over_all_values():
    x, y = random_layer(channels=6)
    fit = fit_layer(moments_of(x, y), 2)
    plain = applied(
        dataclasses.replace(
            fit, weight=torch.ones_like(fit.weight), bias=torch.zeros_like(fit.bias)
        ),
        x,
    )
    for channel in range(6):
        n = plain[:, channel].flatten()
        design = torch.stack([n, torch.ones_like(n)], 1)
        best = torch.linalg.lstsq(design, y[:, channel].reshape(-1, 1)).solution.flatten()
        expected = torch.stack([fit.weight[channel], fit.bias[channel]])
        assert torch.allclose(best, expected, rtol=FORMULA_64)


@given(st.sampled_from([(4, 1), (4, 2), (6, 3), (12, 2), (12, 3)]), st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_never_worse_than_what_it_contains(sizes, seed):
    channels, groups = sizes
    moments = moments_of(*random_layer(10, channels, 4, seed))
    limits = [
        FOLD_AND_LEAST_SQUARES,
        dataclasses.replace(SIGNS, steps=0),
        FitLimits(steps=0),
        FitLimits(steps=10),
    ]
    plain, signs, started, descended = (
        fit_layer(moments, groups, limits=limit, seed=seed).error for limit in limits
    )
    assert signs <= plain + FORMULA_64
    assert started <= signs + FORMULA_64
    assert descended <= started + FORMULA_64
    assert descended >= inherited_error(moments) - FORMULA_64


def test_steps_that_go_too_far_lose_nothing(monkeypatch):
    """The best of all steps is taken, scale and offset of the same one."""
    moments = moments_of(*random_layer())
    started = fit_layer(moments, 2, limits=FitLimits(steps=0)).error
    monkeypatch.setattr(fit, "_LEARNING_RATE", 3.0)
    for steps in (1, 2, 5):
        assert fit_layer(moments, 2, limits=FitLimits(steps=steps)).error <= started + FORMULA_64


@pytest.mark.parametrize(
    "limits",
    [
        FOLD_AND_LEAST_SQUARES,
        SIGNS,
        SIGNS_AND_SCALES,
        POSITIVE,
        FitLimits(scale_limit=0.2, offset_limit=0.3),
        FitLimits(scale_limit=0),
    ],
)
def test_limits_hold(limits):
    x, y = random_layer(channels=12)
    fit = fit_layer(moments_of(x, y), 3, limits=limits)
    std = (x.var((0, 2), correction=0) + fit.eps).sqrt()
    a = (fit.input_scale * std).view(3, 4)
    d = (fit.input_shift + fit.input_scale * x.mean((0, 2))).view(3, 4)
    log_a = a.abs().log()
    assert (log_a.amax(1) - log_a.amin(1)).max() <= 2 * limits.scale_limit + FORMULA_64
    assert (d / a).abs().max() <= limits.offset_limit * math.exp(limits.scale_limit) + FORMULA_64
    assert limits.signs or (a > 0).all()
    if limits.scale_limit > 0:
        assert (log_a.amax(1) - log_a.amin(1)).min() > 0
    if limits.offset_limit == 0:
        assert fit.offset_share == 0


def test_the_offset_share_is_that_of_the_groups_variance():
    x, y = random_layer(channels=8)
    fit = fit_layer(moments_of(x, y), 2)
    v = x * fit.input_scale.view(-1, 1) + fit.input_shift.view(-1, 1)
    var = v.view(x.shape[0], 2, -1).var(2, correction=0).mean(0) + fit.eps
    d = (fit.input_shift + fit.input_scale * x.mean((0, 2))).view(2, 4)
    expected = (d.var(1, correction=0) / var).mean().item()
    assert fit.offset_share == pytest.approx(expected, rel=FORMULA_64)
    assert 0 < fit.offset_share < 1


def test_one_channel_a_group_matches_mean_and_variance():
    x, y = random_layer(channels=5)
    fit = fit_layer(moments_of(x, y), 5)
    out = applied(fit, x)
    assert torch.allclose(out.mean((0, 2)), y.mean((0, 2)))
    assert torch.allclose(out.var((0, 2)), y.var((0, 2)))
    assert (fit.input_shift + fit.input_scale * x.mean((0, 2))).abs().max() < FORMULA_64


def test_units_of_input_and_output_do_not_matter():
    x, y = random_layer()
    limits = FitLimits(steps=20)
    fit = fit_layer(moments_of(x, y), 2, eps=EPS, limits=limits)
    other = fit_layer(moments_of(1000 * x - 7000, 0.01 * y + 3), 2, eps=EPS, limits=limits)
    assert other.error == pytest.approx(fit.error, rel=PRINTED)
    assert torch.allclose(
        applied(other, 1000 * x - 7000), 0.01 * applied(fit, x) + 3, rtol=PRINTED, atol=PRINTED
    )


@pytest.mark.parametrize("unit", [1e-2, 1.0, 1e3])
def test_the_scales_of_a_group_are_1_on_average_whatever_the_unit_of_x(unit):
    """The layer in front keeps the size of its weights, and with it the steps of a training."""
    x, y = random_layer(channels=12)
    fit = fit_layer(moments_of(unit * x, y), 3, eps=EPS, limits=FitLimits(steps=20))
    log_scales = fit.input_scale.abs().log().view(3, 4)
    assert log_scales.mean(1).abs().max() < FORMULA_64
    assert log_scales.abs().max() > 0.1


def test_half_of_the_groups_statistics_lose_less():
    moments = moments_of(*random_layer())
    errors = [
        fit_layer(moments, 4, limits=FOLD_AND_LEAST_SQUARES, hybrid=k) for k in (0.0, 0.5, 1.0)
    ]
    assert errors[0].error < errors[1].error < errors[2].error


def test_what_earlier_layers_lost_is_inherited():
    x, y = random_layer(samples=60, channels=8)
    assert inherited_error(moments_of(x, y)) < FORMULA_64
    noise = torch.randn(x.shape, dtype=torch.float64)
    loud = constants(x) + noise * constants(x).std((0, 2)).view(-1, 1)
    moments = moments_of(x, loud)
    assert inherited_error(moments) == pytest.approx(0.5, abs=CLEARLY)
    assert fit_layer(moments, 1).error >= inherited_error(moments)


def test_the_same_for_a_seed_under_any_mode_and_no_trace_of_it():
    moments = moments_of(*random_layer())
    before = torch.get_rng_state()
    limits = FitLimits(steps=10)
    first = fit_layer(moments, 2, limits=limits, seed=3)
    with torch.inference_mode():
        inside = moments_of(*random_layer())
        second = fit_layer(inside, 2, limits=limits, seed=3)
    with torch.no_grad():
        third = fit_layer(moments, 2, limits=limits, seed=3)
        assert not torch.is_grad_enabled()
    for other in (second, third):
        assert torch.equal(first.input_scale, other.input_scale)
        assert torch.equal(first.weight, other.weight)
    assert torch.equal(before, torch.get_rng_state())
    tensors = [value for value in vars(first).values() if isinstance(value, torch.Tensor)]
    assert len(tensors) == 6
    assert not any(value.requires_grad for value in tensors)


def test_dead_channels_and_constant_outputs():
    x, y = random_layer(channels=8)
    x[:, 1] = 0.3
    y[:, 1] = 5.0
    y[:, 4:] = -2.0
    fit = fit_layer(moments_of(x, y), 2, limits=FitLimits(steps=20))
    out = applied(fit, x)
    assert all(bool(t.isfinite().all()) for t in (fit.weight, fit.bias, fit.input_scale, out))
    assert (out[:, 1] - 5).abs().max() < FORMULA_64
    assert (out[:, 4:] + 2).abs().max() < FORMULA_64
    silent = fit_layer(moments_of(x, torch.full_like(y, 7.0)), 2)
    assert silent.error == 0
    assert (applied(silent, x) - 7).abs().max() < FORMULA_64


@pytest.mark.parametrize("groups", [0, 3, 16])
def test_groups_must_divide(groups):
    with pytest.raises(ValueError, match=f"{groups} groups do not divide 8 channels"):
        fit_layer(moments_of(*random_layer()), groups)


def test_one_sample_and_no_eps_are_errors():
    moments = moments_of(*random_layer())
    with pytest.raises(ValueError, match="two samples"):
        fit_layer(rows(moments, torch.tensor([0])), 2)
    with pytest.raises(ValueError, match="eps must be"):
        fit_layer(moments, 2, eps=0.0)
    with pytest.raises(ValueError, match="hybrid must"):
        fit_layer(moments, 2, hybrid=1.5)


@pytest.mark.parametrize(
    ("name", "value"),
    [("scale_limit", -1), ("offset_limit", float("nan")), ("steps", -1)],
)
def test_limits_that_mean_nothing_are_refused(name, value):
    with pytest.raises(ValueError, match=name):
        FitLimits(**{name: value})


def test_held_out_rows_tell_of_a_fit_to_few():
    moments = moments_of(*random_layer(samples=64, channels=16))
    fitting, held_out = split(moments, 0.9)
    fit = fit_layer(fitting, 4)
    assert relative_error(fit, held_out) > 2 * fit.error


def test_a_channel_that_does_not_move_on_the_data_is_not_blown_up():
    x, y = random_layer(channels=4)
    x[:, 1] = 0.3
    moments = moments_of(x, y)
    stored = torch.tensor([0.1, 0.5, 0.1, 0.1], dtype=torch.float64)
    without, bounded = (
        fit_layer(moments, 1, least_std=std, limits=SIGNS) for std in (None, stored)
    )
    std = (x.var((0, 2), correction=0) + without.eps).sqrt()
    for found, least in ((without, std), (bounded, torch.maximum(std, stored))):
        ratio = (found.input_scale[1] / found.input_scale[0]).abs()
        assert float(ratio) == pytest.approx(float(least[0] / least[1]), rel=FORMULA_64)
    assert (without.input_scale[1] / without.input_scale[0]).abs() > 60
    assert (bounded.input_scale[1] / bounded.input_scale[0]).abs() < 10
    assert torch.equal(without.input_scale.abs() > 20, torch.arange(4) == 1)


def test_nothing_in_front_of_the_norm():
    """Scale and shift alone, as least squares has them; the norm sees the channels' own means."""
    x, y = random_layer()
    fit = fit_layer(moments_of(x, y), 2, in_front=False)
    assert torch.allclose(fit.input_scale, torch.ones(8, dtype=torch.float64))
    assert fit.input_shift.abs().max() < FORMULA_64
    assert fit.error == pytest.approx(measured_error(fit, x, y), rel=FORMULA_64)
    other = dataclasses.replace(fit, bias=fit.bias + 0.01)
    assert measured_error(other, x, y) > fit.error
