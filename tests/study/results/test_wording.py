"""The words of a metric follow its title, unit and direction."""

import math

import pytest

from groupnorm.study.results import wording
from groupnorm.training.metric import Metric
from tests.study.fake_store import BOX_AP, ERROR

LOSS = Metric("val_loss", "", "lower", "loss")
SPEED = Metric("speed", "images/s", "higher", "images per second")
IN_PERCENT = Metric("box_ap", "%", "higher", "box AP")


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (ERROR, ("error", "errors", "error", "error", "27.3 %", "error (%)", " in percent")),
        (BOX_AP, ("box AP", "box APs", "box_ap", "box-ap", "27.3", "box AP", "")),
        (LOSS, ("loss", "losses", "loss", "loss", "27.3", "loss", "")),
        (IN_PERCENT, ("box AP", "box APs", "box_ap", "box-ap", "27.3 %", "box AP (%)",
                      " in percent")),
    ],
    ids=lambda value: getattr(value, "name", ""),
)  # fmt: skip
def test_nouns_and_units(metric, expected):
    noun = wording.noun(metric)
    assert (
        noun, wording.plural(metric), wording.key(metric), wording.slug(metric),
        wording.value_text(metric, 27.26), wording.axis_label(metric, noun),
        wording.in_unit(metric),
    ) == expected  # fmt: skip


def test_articles_and_capitals():
    assert wording.with_article("error") == "an error"
    assert wording.with_article("box AP") == "a box AP"
    assert wording.with_article("AP50") == "an AP50"
    assert wording.capital("box AP") == "Box AP"


@pytest.mark.parametrize(
    ("metric", "points", "in_full"),
    [(ERROR, "points", "percentage points"), (BOX_AP, "points", "points"),
     (SPEED, "images/s", "images/s")],
)  # fmt: skip
def test_differences_have_a_unit(metric, points, in_full):
    assert (wording.gap_unit(metric), wording.gap_unit_in_full(metric)) == (points, in_full)


def test_the_better_value_is_sorted_first():
    values = [30.0, 10.0, 20.0]
    assert sorted(values, key=lambda v: wording.rank(ERROR, v)) == [10.0, 20.0, 30.0]
    assert sorted(values, key=lambda v: wording.rank(BOX_AP, v)) == [30.0, 20.0, 10.0]
    assert wording.rank(ERROR, wording.worst_value(ERROR)) == math.inf
    assert wording.rank(BOX_AP, wording.worst_value(BOX_AP)) == math.inf
    assert [wording.is_better(ERROR, d) for d in (-1.0, 0.0, 1.0)] == [True, False, False]
    assert [wording.is_better(BOX_AP, d) for d in (-1.0, 0.0, 1.0)] == [False, False, True]


def test_comparisons():
    assert wording.ahead(ERROR, "6.2 points", "bn") == "has 6.2 points less error than bn"
    assert wording.ahead(BOX_AP, "2.1 points", "bn") == "is 2.1 points better than bn in box AP"
    assert [wording.short_comparison(ERROR, better) for better in (True, False)] == [
        "less error", "more error",
    ]  # fmt: skip
    assert [wording.short_comparison(BOX_AP, better) for better in (True, False)] == [
        "higher box AP", "lower box AP",
    ]  # fmt: skip
    assert (wording.best_word(ERROR), wording.worst_word(ERROR)) == ("lowest", "highest")
    assert (wording.best_word(BOX_AP), wording.worst_word(BOX_AP)) == ("highest", "lowest")
    assert (wording.better_word(ERROR), wording.better_word(BOX_AP)) == ("lower", "higher")


def test_the_share_of_images_is_told_from_other_percentages():
    accuracy = Metric("val_accuracy", "%", "higher", "top-1 accuracy")
    assert [wording.is_share(m) for m in (ERROR, accuracy, IN_PERCENT, LOSS)] == [
        True, True, False, False,
    ]  # fmt: skip


def test_an_interval_beyond_what_there_is_is_explained():
    assert wording.beyond_bounds(ERROR, [(0.0, 100.0), None]) == ""
    assert wording.beyond_bounds(BOX_AP, [(-3.0, 9.0)]) == "", "it has no bounds that are known"
    for interval in ((-0.1, 9.0), (95.0, 100.1)):
        assert wording.beyond_bounds(ERROR, [(1.0, 2.0), interval]) == (
            " An interval of few seeds that vary much reaches below 0 or above 100 %, because "
            "Student's t knows no bounds."
        )
