"""Weight-standardized convolutions against the formula."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from groupnorm.layers import WSConv2d, standardize


@pytest.mark.parametrize("groups", [1, 2])
def test_output_is_a_convolution_with_standardized_filters(groups):
    torch.manual_seed(0)
    layer = WSConv2d(4, 6, 3, stride=2, padding=1, groups=groups, ws_eps=1e-3, dtype=torch.float64)
    x = torch.randn(2, 4, 7, 5, dtype=torch.float64)
    filters = []
    for w in layer.weight:
        variance = ((w - w.mean()) ** 2).mean()  # biased
        filters.append((w - w.mean()) / (variance + 1e-3) ** 0.5)  # eps inside the root
    expected = F.conv2d(x, torch.stack(filters), layer.bias, 2, 1, groups=groups)
    assert torch.allclose(layer(x), expected, atol=1e-12)


def test_filters_have_mean_zero_and_biased_variance_one():
    w = standardize(torch.randn(5, 3, 3, 3, dtype=torch.float64) * 7 + 4, 1e-6)
    assert w.mean((1, 2, 3)).abs().max() < 1e-14
    assert torch.allclose(w.var((1, 2, 3), correction=0), torch.ones(5, dtype=torch.float64))


def test_scale_and_shift_of_the_weights_do_not_matter():
    w = torch.randn(5, 3, 3, 3, dtype=torch.float64)
    assert torch.allclose(standardize(3 * w - 2, 1e-12), standardize(w, 1e-12))


def test_equal_weights_give_zeros():
    assert torch.equal(standardize(torch.full((2, 3, 3, 3), 0.3), 1e-6), torch.zeros(2, 3, 3, 3))


def test_the_gradient_flows_through():
    w = torch.randn(2, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: standardize(w, 1e-6), (w,))


def test_drop_in_for_conv2d():
    ours, theirs = WSConv2d(3, 4, 3, bias=False), nn.Conv2d(3, 4, 3, bias=False)
    ours.load_state_dict(theirs.state_dict())
    assert isinstance(ours, nn.Conv2d)
    assert "ws_eps=1e-06" in repr(ours)


def test_what_cannot_be_standardized_raises():
    with pytest.raises(ValueError, match=r"filter of one weight .* shape \(4, 1, 1, 1\)"):
        WSConv2d(4, 4, 1, groups=4)
    with pytest.raises(ValueError, match="between 0 and 1, got 0"):
        WSConv2d(4, 4, 3, ws_eps=0)
