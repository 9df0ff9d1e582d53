"""Means over seeds, paired differences and their intervals."""

import math
from decimal import Decimal

import numpy as np
import pytest

from groupnorm.study.results.estimates import (
    Difference,
    Estimate,
    estimate,
    paired_difference,
    seeds_needed,
    student_t,
)
from groupnorm.study.results.labels import interval_text
from tests.tolerances import FOUR_DIGITS, PRINTED


def by_seed(*errors):
    return dict(enumerate(errors))


def test_spread_is_the_sample_standard_deviation():
    found = estimate([10.0, 12.0, 17.0])
    assert found.mean == 13.0
    assert found.spread == pytest.approx(math.sqrt((9 + 1 + 16) / 2))
    assert estimate([10.0]) == Estimate(10.0, None, 1)
    assert estimate([]) is None


@pytest.mark.parametrize(
    ("freedom", "t"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (5, 2.5706), (9, 2.2622), (10, 2.2281),
     (29, 2.0452), (30, 2.0423), (120, 1.9799)],
)  # fmt: skip
def test_students_t_is_that_of_the_tables(freedom, t):
    assert student_t(freedom) == pytest.approx(t, abs=FOUR_DIGITS)


def test_students_t_of_another_share():
    """80 % of the distribution lie below it."""
    assert student_t(2, 0.6) == pytest.approx(1.0607, abs=FOUR_DIGITS)
    assert student_t(4, 0.6) == pytest.approx(0.9410, abs=FOUR_DIGITS)


def test_the_interval_of_a_mean_needs_two_seeds():
    low, high = estimate([10.0, 12.0, 17.0]).interval
    assert (low + high) / 2 == pytest.approx(13.0)
    assert (high - low) / 2 == pytest.approx(4.3027 * math.sqrt(13.0 / 3), rel=FOUR_DIGITS)
    assert estimate([10.0]).interval is None


def test_a_difference_is_that_of_the_same_seeds():
    """Seeds that are far apart but move both alike leave a narrow interval."""
    found = paired_difference(by_seed(20.0, 30.0, 40.0), by_seed(22.0, 31.5, 42.5))
    assert found.mean == pytest.approx(-2.0)
    assert found.spread == pytest.approx(0.5)
    assert found.standard_error == pytest.approx(0.5 / math.sqrt(3))
    assert found.interval == pytest.approx((-3.242, -0.758), abs=PRINTED)
    assert found.told_apart is True
    assert (found.pairs, found.left_out) == (3, 0)


@pytest.mark.parametrize(
    ("differences", "apart"),
    [((1.0, 2.0, 3.0), False), ((-1.0, -1.1, -1.2), True), ((1.0, 1.1, 1.2), True),
     ((1.0, 1.3), False)],
)  # fmt: skip
def test_an_interval_that_holds_0_tells_nothing_apart(differences, apart):
    """Two seeds know the spread so little that 1.0 and 1.3 may come from no difference."""
    zeros = dict.fromkeys(range(len(differences)), 0.0)
    assert paired_difference(by_seed(*differences), zeros).told_apart is apart


def test_seeds_that_only_one_has_are_left_out_and_counted():
    found = paired_difference({0: 20.0, 1: 21.0, 2: 99.0}, {0: 22.0, 1: 22.0, 5: 1.0, 6: 1.0})
    assert (found.mean, found.pairs, found.left_out) == (-1.5, 2, 3)
    assert found.shown == Decimal("-1.5")
    assert paired_difference({0: 20.0}, {1: 20.0}) is None


def test_whatever_both_have_is_paired():
    """Folds of the test images within each seed, for instance."""
    a = {(seed, fold): 30.0 + seed + fold for seed in range(2) for fold in range(5)}
    b = {pair: value - 2.0 - 0.1 * pair[1] for pair, value in a.items()}
    del b[1, 4]
    found = paired_difference(a, b)
    assert (found.pairs, found.left_out) == (9, 1)
    assert found.mean == pytest.approx(2 + 0.1 * (10 + 6) / 9)
    assert found == paired_difference(dict(reversed(a.items())), b), "in any order"


def test_a_single_pair_has_no_interval():
    found = paired_difference({0: 90.0, 1: 91.0}, {0: 20.0})
    assert (found.mean, found.pairs, found.left_out) == (70.0, 1, 1)
    assert (found.spread, found.interval, found.standard_error, found.told_apart) == (None,) * 4


def test_equal_differences_are_no_certainty():
    found = paired_difference(by_seed(20.3, 30.7), by_seed(18.2, 28.6))
    assert found.spread == 0.0
    assert (found.interval, found.told_apart) == (None, None)


def test_the_difference_shown_is_that_of_the_means_shown():
    assert paired_difference({0: 40.86}, {0: 40.24}).shown == Decimal("0.7")


@pytest.mark.parametrize(
    ("a", "shown", "text"),
    [
        ((20.25, 20.35, 20.37), "0.12", "-0.04 to 0.28"),  # 20.3 and 20.2 are 0.1 apart
        ((20.36, 20.36, 20.37), "0.16", "0.15 to 0.18"),
        ((20.77, 20.85, 20.96), "0.7", "0.4 to 0.9"),
    ],
)
def test_the_difference_shown_lies_in_the_interval_shown(a, shown, text):
    found = paired_difference(by_seed(*a), by_seed(20.2, 20.2, 20.2))
    assert (str(found.shown), interval_text(found.interval)) == (shown, text)


def test_a_difference_outside_its_interval_for_rounding_is_the_exact_mean():
    """The means 20.85 and 20.245 are 20.9 and 20.2 in the table, 0.7 apart."""
    found = paired_difference(by_seed(20.832, 20.85, 20.868), by_seed(20.245, 20.245, 20.245))
    assert interval_text(found.interval) == "0.6 to 0.6"
    assert found.shown == Decimal("0.6")


def test_a_difference_can_be_turned_round():
    found = Difference(-2.0, Decimal("-2.0"), 0.5, 3, 1).negated
    assert (found.mean, found.shown, found.pairs, found.left_out) == (2.0, Decimal("2.0"), 3, 1)
    assert found.interval[0] > 0


@pytest.mark.parametrize(
    ("spread", "seeds"), [(0.0, 3), (0.3, 3), (0.4, 4), (0.5, 5), (0.7, 6), (1.3, 16), (3.0, 73)]
)
def test_the_fewest_seeds_that_tell_one_point(spread, seeds):
    assert seeds_needed(spread) == seeds


@pytest.mark.parametrize("spread", [0.7, 1.3, 3.0])
def test_so_many_seeds_tell_one_point_in_four_studies_of_five(spread):
    """Simulated: normal differences around one point, and how often their interval leaves out 0."""
    studies, seeds = 20_000, seeds_needed(spread)
    found = np.random.default_rng(0).normal(1.0, spread, (studies, seeds))
    half_width = student_t(seeds - 1) * found.std(axis=1, ddof=1) / math.sqrt(seeds)
    told = np.mean(np.abs(found.mean(axis=1)) > half_width)
    assert 0.79 < told < 0.83
