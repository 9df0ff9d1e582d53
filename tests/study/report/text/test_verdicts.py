"""Differences in words: an interval where there is one, and no certainty where there is none."""

from decimal import Decimal

import pytest

from groupnorm.study.report.text.verdicts import (
    change,
    less_than,
    percent,
    seeds_for_one_point,
    verdict,
)
from groupnorm.study.results.estimates import Difference, Estimate


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
    assert verdict("a", "b", found) == expected


def test_a_verdict_says_where():
    assert "than b at 2 images (95" in verdict("a", "b", BELOW, " at 2 images")
    assert "cannot be told apart at 2 images: b" in verdict("a", "b", CLOSE, " at 2 images")


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
def test_what_follows_the_lowest_error(found, expected):
    assert less_than("b", found) == expected


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
    assert change(found) == expected


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
    assert seeds_for_one_point(found) == expected


def test_a_mean_in_percent():
    assert percent(Estimate(20.14, 0.11, 3)) == "20.1 % ± 0.1"
    assert percent(Estimate(20.14, None, 1)) == "20.1 %"
    assert percent(None) == "no result"
