"""The convolution of the residual networks."""

import pytest
import torch

from groupnorm.layers import norm_layer
from groupnorm.models.classification.padded_conv import padded_conv


@pytest.mark.parametrize(("kernel_size", "stride", "side"), [(1, 1, 7), (3, 1, 7), (7, 2, 4)])
def test_the_size_is_kept_or_divided_by_the_stride(kernel_size, stride, side):
    conv = padded_conv(norm_layer("gn:groups=2"), 4, 6, kernel_size, stride, groups=2)
    assert conv(torch.zeros(2, 4, 7, 7)).shape == (2, 6, side, side)
    assert conv.weight.shape == (6, 2, kernel_size, kernel_size)


def test_it_has_a_bias_where_nothing_normalizes():
    assert padded_conv(norm_layer("bn"), 4, 6, 3).bias is None
    assert padded_conv(norm_layer("none"), 4, 6, 3).bias is not None
