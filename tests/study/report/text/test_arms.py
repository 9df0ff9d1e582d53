"""The words of a study of arms: box AP, higher is better, two seeds, three arms."""

import re

import pytest

from groupnorm.study.report.text import describe
from groupnorm.study.report.text.verdicts import verdict_on_parts
from groupnorm.study.results.estimates import paired_difference
from tests.study.fake_detectors import BOX_AP, Arm, detector_study
from tests.study.fake_store import ARMS, arms_study, loaded

FROZEN, BEST, SCRATCH = ARMS


def test_the_first_sentence_is_the_finding_with_its_uncertainty(arms):
    first, measured, how, *others = describe(*arms)
    assert first.startswith(
        f"{BEST} is 1.6 points better than {FROZEN} in box AP (95 % interval 0.7 to 2.5, 2 seeds). "
        "Two pairs of seeds can agree by chance. "
    )
    assert first.endswith(f"{BEST} was picked for the highest of 3 box APs, which chance favours.")
    assert "with 3 arms, 2 seeds each" in measured
    assert how.startswith("The box AP is that of the last epoch, averaged over seeds;")
    assert others[0] == (
        f"Of 3 arms {BEST} has the highest box AP, 33.2 ± 0.2, 1.6 points more than {FROZEN} "
        f"(95 % interval 0.7 to 2.5, 2 seeds); {SCRATCH} has the lowest, 6.5 ± 0.1."
    )
    assert not re.search(
        r"\berrors?\b|%(?! interval)|images per worker", " ".join([first, *others])
    )


def test_where_the_first_arm_is_the_best_it_stands_against_the_next(tmp_path):
    arms_study(tmp_path, arms={"a": 33.0, "b": 20.0, "c": 31.0})
    assert describe(*loaded(tmp_path))[0].startswith(
        "a is 2.0 points better than c in box AP (95 %"
    )


def test_only_arms_of_equal_training_are_compared(tmp_path):
    study, rows = loaded(detector_study(tmp_path))
    for row in rows:
        row.labels["training"] = "1,000 steps" if "scratch" in row.labels["arm"] else "500 steps"
    first, _, _, others, *_ = describe(study, rows)
    assert "from scratch" not in first
    assert first.endswith("was picked for the highest of 4 box APs, which chance favours.")
    assert others.startswith("Of 4 arms (training: 500 steps) GN+WS (500 steps) has the highest")
    assert "; GN (500 steps) has the lowest" in others
    assert "GN+WS, from scratch (1,000 steps) is 3.4 points better than BN at 2, from" in others


def test_one_seed_tells_nothing(tmp_path):
    first, _, how, *_ = describe(*loaded(arms_study(tmp_path, seeds=1)))
    assert first.startswith(
        f"Nothing can be told from one seed: {BEST} has a box AP of 33.1 and {FROZEN} of 31.4, and"
    )
    assert "published" not in how, "a sweep of errors says nothing of box AP"


@pytest.mark.parametrize("other", ["b", "c"])
def test_arms_of_unlike_seeds_are_compared_by_the_seed_that_both_have(tmp_path, other):
    """The values are those of that seed, and more seeds of a study do not help an arm of one."""
    arms = {"a": Arm(30.0, "bn", seeds=1), other: Arm(33.0, "bn", seeds=2 if other == "b" else 1)}
    study, rows = loaded(detector_study(tmp_path, {**arms, "d": Arm(20.0, "bn", seeds=2)}))
    ours, theirs = (row.results[0] for row in rows[:2])
    assert describe(study, rows)[0].startswith(
        f"Nothing can be told from the one seed that both have: {other} has a box AP of "
        f"{theirs:.1f} % and a of {ours:.1f} %, and how much of the difference is chance is not "
        "known. Of the networks"
    )


def test_the_first_paragraph_also_says_what_other_test_images_would_tell(tmp_path):
    first, measured, *_ = describe(*loaded(detector_study(tmp_path)))
    assert first.startswith("GN+WS and frozen BN cannot be told apart: GN+WS is 1.5 points better")
    assert (
        "Of the networks trained here, on 10 parts of the test images, GN+WS is 1.5 points better "
        "than frozen BN in box AP (95 % interval 1.1 to 1.9). GN+WS was picked"
    ) in first
    assert "with 6 arms, 1 to 2 seeds each" in measured


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([-1.0, -1.1], "b is 1.1 points better than a in box AP (95 % interval 0.4 to 1.7)."),
        ([0.05, 0.051], "a is 0.05 points better than b in box AP (95 % interval 0.04 to 0.06)."),
        ([1.0, -0.8], "a and b cannot be told apart (95 % interval -11.3 to 11.5)."),
    ],
)
def test_what_parts_tell_of_two_arms(values, expected):
    found = paired_difference(dict(enumerate(values)), dict.fromkeys(range(2), 0.0))
    text = verdict_on_parts(BOX_AP, "a", "b", found)
    assert text == f"Of the networks trained here, on 2 parts of the test images, {expected}"
    text = verdict_on_parts(BOX_AP, "a", "b", found, "validation")
    assert "parts of the validation images" in text


def test_parts_without_an_interval_tell_nothing():
    assert verdict_on_parts(BOX_AP, "a", "b", None) == ""
    assert verdict_on_parts(BOX_AP, "a", "b", paired_difference({0: 1.0}, {0: 0.0})) == ""
