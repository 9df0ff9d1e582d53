"""Differences in words: an interval where there is one, and no certainty where there is none."""

from decimal import Decimal

import pytest

from groupnorm.study.report.text.verdicts import (
    beyond_next,
    change,
    mean_text,
    seeds_for_one_point,
    verdict,
)
from groupnorm.study.results.estimates import Difference, Estimate
from tests.study.fake_store import BOX_AP, ERROR


def difference(mean, spread, pairs=3, left_out=0):
    return Difference(mean, Decimal(f"{mean:.1f}"), spread, pairs, left_out)


BELOW = difference(-6.6, 0.4)
CLOSE = difference(0.3, 0.4)
WITHOUT = difference(-3.1, None, pairs=1)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (BELOW, "a has 6.6 points less error than b (95 % interval 5.6 to 7.6, 3 seeds)"),
        (difference(6.6, 0.4),
         "b has 6.6 points less error than a (95 % interval 5.6 to 7.6, 3 seeds)"),
        (CLOSE, "a and b cannot be told apart: b has 0.3 points less error "
                "(95 % interval -0.7 to 1.3, 3 seeds)"),
        (difference(-6.6, 0.4, 3, 2), "a has 6.6 points less error than b (95 % interval 5.6 to "
                                      "7.6, 3 seeds; 2 left out that only one of the two has)"),
        (WITHOUT, "a has 3.1 points less error than b in one seed"),
        (difference(0.0, 0.4), "a and b cannot be told apart: their mean errors are the same (95 % "
                               "interval -1.0 to 1.0, 3 seeds)"),
        (difference(0.0, None, 1), "a and b have the same error in one seed"),
        (difference(-0.02, 0.001),
         "a has less than 0.1 points less error than b (95 % interval 0.018 to 0.022, 3 seeds)"),
        (difference(-2.0, 0.0, 2),
         "a has 2.0 points less error than b in each of 2 seeds, which do not say how much it "
         "varies"),
        (None, "a and b share no seed to compare them by"),
    ],
)  # fmt: skip
def test_verdicts(found, expected):
    assert verdict(ERROR, "a", "b", found) == expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (difference(2.1, 0.4),
         "a is 2.1 points better than b in box AP (95 % interval 1.1 to 3.1, 3 seeds)"),
        (difference(-2.1, 0.4),
         "b is 2.1 points better than a in box AP (95 % interval 1.1 to 3.1, 3 seeds)"),
        (CLOSE, "a and b cannot be told apart: a is 0.3 points better in box AP "
                "(95 % interval -0.7 to 1.3, 3 seeds)"),
        (difference(0.0, 0.4), "a and b cannot be told apart: their mean box APs are the same "
                               "(95 % interval -1.0 to 1.0, 3 seeds)"),
        (difference(2.1, None, pairs=1), "a is 2.1 points better than b in box AP in one seed"),
    ],
)  # fmt: skip
def test_verdicts_where_higher_is_better(found, expected):
    assert verdict(BOX_AP, "a", "b", found) == expected


def test_a_verdict_says_where():
    assert "than b at 2 images (95" in verdict(ERROR, "a", "b", BELOW, " at 2 images")
    assert "cannot be told apart at 2 images: b" in verdict(ERROR, "a", "b", CLOSE, " at 2 images")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (BELOW, ", 6.6 points less than b (95 % interval 5.6 to 7.6, 3 seeds)"),
        (difference(-0.3, 0.4), ", 0.3 points less than b, from which it cannot be told apart "
                                "(95 % interval -0.7 to 1.3, 3 seeds)"),
        (WITHOUT, ", 3.1 points less than b in one seed"),
        (difference(0.0, 0.0, 2), ", the same as b in each of 2 seeds"),
        (None, "; it shares no seed with b to compare them by"),
    ],
)  # fmt: skip
def test_what_follows_the_best_value(found, expected):
    assert beyond_next(ERROR, "b", found) == expected


def test_what_follows_the_best_value_where_higher_is_better():
    assert beyond_next(BOX_AP, "b", difference(2.1, 0.4)) == (
        ", 2.1 points more than b (95 % interval 1.1 to 3.1, 3 seeds)"
    )


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (difference(6.6, 0.4), "rises by 6.6 points (95 % interval 5.6 to 7.6, 3 seeds)"),
        (BELOW, "falls by 6.6 points (95 % interval 5.6 to 7.6, 3 seeds)"),
        (CLOSE, "rises by 0.3 points (95 % interval -0.7 to 1.3, 3 seeds: no change that can be "
                "told from chance)"),
        (WITHOUT, "falls by 3.1 points (1 seed)"),
        (None, "cannot be given, because the two share no seed,"),
    ],
)  # fmt: skip
def test_changes(found, expected):
    assert change(ERROR, found) == expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (difference(-6.6, 1.3), "To tell a difference of one point in four studies of five takes "
                                "about 16 seeds, by an estimate from the spread of these 3 pairs."),
        (difference(-6.6, 0.3), "3 seeds tell a difference of one point in four studies of five, "
                                "by an estimate from the spread of these 3 pairs."),
        (WITHOUT, ""),
        (None, ""),
    ],
)  # fmt: skip
def test_how_many_seeds_tell_one_point(found, expected):
    assert seeds_for_one_point(ERROR, found) == expected


def test_a_mean_in_percent():
    assert mean_text(ERROR, Estimate(20.14, 0.11, 3)) == "20.1 % ± 0.1"
    assert mean_text(ERROR, Estimate(20.14, None, 1)) == "20.1 %"
    assert mean_text(ERROR, None) == "no result"
    assert mean_text(BOX_AP, Estimate(31.44, 0.11, 3)) == "31.4 ± 0.1"
