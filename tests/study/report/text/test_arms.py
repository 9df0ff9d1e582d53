"""The words of a study of arms: box AP, higher is better, two seeds, three arms."""

import re

from groupnorm.study.report.text import describe
from tests.study.fake_store import ARMS, arms_study, loaded

FROZEN, BEST, SCRATCH = ARMS


def test_the_first_sentence_is_the_finding_with_its_uncertainty(arms):
    first, measured, how, *others = describe(*arms)
    assert first.startswith(
        f"{BEST} is 1.6 points better than {FROZEN} in box AP (95 % interval 0.7 to 2.5, 2 seeds). "
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


def test_one_seed_tells_nothing(tmp_path):
    first, _, how, *_ = describe(*loaded(arms_study(tmp_path, seeds=1)))
    assert first.startswith(
        f"Nothing can be told from one seed: {BEST} has a box AP of 33.1 and {FROZEN} of 31.4, and"
    )
    assert "published" not in how, "a sweep of errors says nothing of box AP"
