"""What became of everything that a search tried, and what it took."""

import pytest

from groupnorm.study.results.halving import climb
from groupnorm.study.results.outcomes import as_settings, outcome, rung_table, runner_up
from groupnorm.study.results.rows import load_study, summarize_study
from groupnorm.study.results.search import Search
from tests.study.fake_search import Trials, search
from tests.study.fake_store import BOX_AP, ERROR

SETTINGS = {"full_epochs": 42, "rungs": [2, 6, 18], "reported_epochs": 1, "refine": False}


def climbed(table, metric=ERROR):
    rungs = climb(list(table), (2, 6, 18), lambda name, epochs: table[name][epochs], metric)
    return Search(SETTINGS, rungs, [], rungs[-1].kept[0], metric=metric)


def row(error):
    return {2: error + 20.0, 6: error + 5.0, 18: error}


def test_the_runner_up_is_what_came_farthest_beside_the_best():
    table = {"a": row(10.0), "b": row(12.5), "c": row(11.0), "d": row(13.0)}
    assert runner_up(climbed(table)) == ("c", 6, 1.0)
    table["c"][6] = table["b"][6] = float("inf")
    assert runner_up(climbed(table)) == ("c", 2, 1.0)
    assert runner_up(climbed({"a": row(10.0)})) is None


def test_the_runner_up_of_a_metric_that_is_better_the_higher_it_is():
    table = {"a": row(13.0), "b": row(10.0), "c": row(11.5), "d": row(9.0)}
    assert runner_up(climbed(table, BOX_AP)) == ("c", 6, 1.5), "so much worse than the best"


@pytest.mark.parametrize(
    ("norm", "settings"),
    [
        ("gn:groups=8", "norm=gn:groups=8"),
        (
            "gn:size=2 stage1=gn:size=4 stem=ln",
            "norm=gn:size=2 norms.stage1=gn:size=4 norms.stem=ln",
        ),
    ],
)
def test_a_norm_as_settings_of_a_run(norm, settings):
    assert as_settings(norm) == settings


def test_the_table_has_the_chosen_rule_first_and_those_that_came_farthest_next(tmp_path):
    search(tmp_path)
    study = load_study(tmp_path)
    header, body = rung_table(study, summarize_study(study))
    assert header == ["rule", "epoch 2", "epoch 6", "epoch 18", "outcome"]
    assert body[0] == ["gn:groups=8", "47.0", "33.7", "29.3 ± 0.2", "chosen"]
    assert body[1] == ["gn:size=8", "48.0", "34.7", "\u2013", "dropped after epoch 6"]
    assert body[3] == ["gn:size=2", "50.0", "\u2013", "\u2013", "dropped after epoch 2"]
    assert len(body) == 9


def test_every_norm_of_a_refinement_has_an_outcome(tmp_path):
    trials = Trials()
    first, second = "gn:groups=8 stage1=gn:groups=16", "gn:groups=8 stage1=gn:groups=4"
    trials.final |= {first: 26.0, f"{first} stage3=gn:groups=16": 25.0}
    trials.diverge = (second,)
    search(tmp_path, trials, refine=True)
    found = load_study(tmp_path).search
    assert outcome(found, first) == "better, then refined further"
    assert outcome(found, second) == "diverged"
    assert outcome(found, f"{first} stage3=gn:groups=4") == "not better"
    assert outcome(found, f"{first} stage3=gn:groups=16") == "chosen"
