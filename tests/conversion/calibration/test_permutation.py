"""Orders of channels: planted clusters, and what a fit gains from them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groupnorm.conversion.calibration.affine import fold_affine, permute_outputs
from groupnorm.conversion.calibration.fit import FitLimits, fit_layer
from groupnorm.conversion.calibration.permutation import clustered_order
from tests.conversion.calibration.layers import applied, constants, moments_of, random_layer
from tests.tolerances import CLEARLY, DOUBLE


def mixed_clusters():
    """8 channels of two causes in turn, with random signs, whose own noise is small."""
    causes = torch.randn(60, 2, 1, dtype=torch.float64)
    signs = torch.tensor([1.0, 1, -1, 1, -1, -1, 1, -1], dtype=torch.float64).view(8, 1)
    x = causes.repeat(1, 4, 1) * signs + 0.1 * torch.randn(60, 8, 1, dtype=torch.float64)
    x = x + torch.randn(60, 8, 5, dtype=torch.float64)
    return x, constants(x)


def test_planted_clusters_are_found_whatever_their_signs():
    order = clustered_order(moments_of(*mixed_clusters()), 2)
    assert {frozenset(part.tolist()) for part in (order % 2).chunk(2)} == {
        frozenset({0}),
        frozenset({1}),
    }


def test_clusters_with_opposite_signs_lose_less():
    moments = moments_of(*mixed_clusters())
    limits = FitLimits(steps=30)
    together = fit_layer(moments.permuted(clustered_order(moments, 4)), 4, limits=limits)
    assert together.error < (1 - CLEARLY) * fit_layer(moments, 4, limits=limits).error


@given(st.sampled_from([(6, 1), (6, 2), (6, 6), (12, 4)]), st.integers(0, 50))
@settings(max_examples=15, deadline=None)
def test_an_order_has_every_channel_once(sizes, seed):
    channels, groups = sizes
    order = clustered_order(moments_of(*random_layer(8, channels, 3, seed)), groups)
    assert sorted(order.tolist()) == list(range(channels))
    if groups in (1, channels):
        assert order.tolist() == list(range(channels))


def test_dead_channels_have_a_place_too():
    x, y = random_layer(channels=8)
    x[:, ::3] = 2.0
    order = clustered_order(moments_of(x, y), 4)
    assert sorted(order.tolist()) == list(range(8))


def test_the_order_goes_into_the_convolution_in_front():
    x, _ = random_layer(channels=6, positions=7)
    weight, bias = torch.randn(8, 6, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    made = torch.einsum("oc,ncp->nop", weight, x) + bias.view(-1, 1)
    moments = moments_of(made, constants(made))
    order = clustered_order(moments, 2)
    fit = fit_layer(moments.permuted(order), 2, limits=FitLimits(steps=5))
    expected = applied(fit, made[:, order])
    folded = fold_affine(*permute_outputs(weight, bias, order), fit.input_scale, fit.input_shift)
    v = torch.einsum("oc,ncp->nop", folded[0], x) + folded[1].view(-1, 1)
    found = torch.nn.functional.group_norm(v, 2, fit.weight, fit.bias, fit.eps)
    assert (found - expected).abs().max() < DOUBLE


def test_groups_must_divide():
    with pytest.raises(ValueError, match="3 groups do not divide 8"):
        clustered_order(moments_of(*random_layer()), 3)
