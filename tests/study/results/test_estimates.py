"""Means over seeds, and clear differences between them."""

import math

import pytest

from groupnorm.study.results.estimates import Estimate, compare, estimate


def test_spread_is_the_sample_standard_deviation():
    found = estimate([10.0, 12.0, 17.0])
    assert found.mean == 13.0
    assert found.spread == pytest.approx(math.sqrt((9 + 1 + 16) / 2))
    assert estimate([10.0]) == Estimate(10.0, None, 1)
    assert estimate([]) is None


@pytest.mark.parametrize(("difference", "clear"), [(0.9, True), (0.7, False), (-0.9, True)])
def test_a_difference_is_clear_beyond_twice_the_larger_spread(difference, clear):
    found = compare(Estimate(20.0 + difference, 0.1, 3), Estimate(20.0, 0.4, 3))
    assert found.difference == pytest.approx(difference)
    assert found.spread == 0.4
    assert found.clear is clear


def test_without_a_spread_nothing_is_clear():
    found = compare(Estimate(90.0, None, 1), Estimate(20.0, 0.4, 3))
    assert (found.spread, found.clear) == (None, None)
