"""Conventions: the variance of batch norm, padding, kinds of norms."""

import math

import numpy as np
import pytest
import torch

from groupnorm.frameworks.weights.conventions import (
    each_axis,
    same_padding,
    torch_padding,
    torch_transposed_padding,
    variance_from_torch,
    variance_to_torch,
)
from groupnorm.frameworks.weights.problems import WeightsError
from tests.tolerances import DOUBLE, ROUNDOFF


def test_the_variance_is_that_of_pytorchs_batch_norm():
    """One training step with momentum 1 leaves the unbiased variance of the batch."""
    x = torch.randn(4, 3, 5, dtype=torch.float64)
    norm = torch.nn.BatchNorm1d(3, momentum=1.0, dtype=torch.float64)
    norm(x)
    unbiased, biased = norm.running_var.numpy(), x.numpy().var((0, 2))
    np.testing.assert_allclose(variance_from_torch(unbiased, 20), biased, rtol=DOUBLE)
    np.testing.assert_allclose(variance_to_torch(biased, 20), unbiased, rtol=DOUBLE)


def test_an_infinite_count_leaves_the_numbers():
    array = np.random.default_rng(0).random(100).astype(np.float32)
    assert np.array_equal(variance_from_torch(array, math.inf), array)
    assert np.array_equal(variance_to_torch(array, math.inf), array)
    there = variance_to_torch(variance_from_torch(array, 32), 32)
    np.testing.assert_allclose(there, array, rtol=2 * ROUNDOFF[torch.float32])


@pytest.mark.parametrize("count", [1, 0, -3, math.nan])
def test_a_count_must_be_above_one(count):
    with pytest.raises(WeightsError, match=f"more than 1, got {count}"):
        variance_from_torch(np.ones(3), count)


@pytest.mark.parametrize(
    ("kernel", "strides", "dilation", "expected"),
    [
        ((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1))),
        ((2, 5), (1, 1), (1, 1), ((0, 1), (2, 2))),
        ((3,), (1,), (4,), ((4, 4),)),
        ((1, 1), (2, 2), (1, 1), ((0, 0), (0, 0))),
        ((3, 1), (2, 2), (1, 1), None),
        ((3, 3), (1, 2), (1, 1), None),
    ],
)
def test_same_padding(kernel, strides, dilation, expected):
    assert same_padding(kernel, strides, dilation) == expected


def test_padding_of_pytorchs_convolutions():
    def padding(*arguments, **options):
        return torch_padding(torch.nn.Conv2d(2, 2, *arguments, **options))

    assert padding(3, padding=(1, 2)) == ((1, 1), (2, 2))
    assert padding(3, padding="valid") == ((0, 0), (0, 0))
    assert padding((2, 3), padding="same") == ((0, 1), (1, 1))


def test_settings_for_each_axis():
    assert each_axis(None, 2) == (1, 1)
    assert each_axis(3, 2) == (3, 3)
    assert each_axis([1, 2], 2) == (1, 2)


def test_padding_of_pytorchs_transposed_convolutions():
    conv = torch.nn.ConvTranspose2d(
        2, 2, (3, 2), stride=2, padding=(1, 0), output_padding=(0, 1), dilation=(2, 1)
    )
    assert torch_transposed_padding(conv) == ((3, 3), (1, 2))
