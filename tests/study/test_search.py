"""The stages of a search: budgets, kills, ties, refinement; the trials are made up at once."""

import math

import pytest

from groupnorm.study.report.page import main_table
from groupnorm.study.results.outcomes import epochs_trained, full_runs
from groupnorm.study.results.rows import load_study, summarize_study
from groupnorm.study.store import read_cells, read_manifest
from tests.study.fake_search import FINAL, KilledError, Trials, search


@pytest.fixture
def trials():
    return Trials()


def rungs(trials):
    return [(stop, len(runs)) for stop, runs in trials.stages]


def test_all_for_a_while_the_best_three_longer_and_one_with_two_seeds_to_the_end(trials, tmp_path):
    said = search(tmp_path, trials)
    assert rungs(trials) == [(2, 9), (6, 3), (18, 2)]
    assert trials.stages[1][1] == {("gn:size=4", 0), ("gn:groups=8", 0), ("gn:size=8", 0)}
    assert trials.stages[2][1] == {("gn:groups=8", 0), ("gn:groups=8", 1)}
    assert "9 untrained networks measured" in said
    assert "none discarded" in said
    assert "rung 2: 3 runs up to epoch 6: 0 reused, 3 continued, 0 to train" in said


def test_the_budget_of_nine_rules_is_thirty_first_rungs(trials, tmp_path):
    search(tmp_path, trials)
    study = load_study(tmp_path)
    assert epochs_trained(study) == 9 * 2 + 2 * 4 + (18 - 2) + 18 == 30 * 2
    assert full_runs(study) == 60 / 42


def test_no_run_sees_the_test_images_and_learning_rates_are_those_of_the_whole(trials, tmp_path):
    search(tmp_path, trials, validation_images=200)
    configs = [record.config for record in load_study(tmp_path).records.values()]
    assert {config["validation_images"] for config in configs} == {200}
    assert {config["epochs"] for config in configs} == {42}
    assert {config["size_schedule"] for config in configs} == {""}
    assert {config["evaluate_every"] for config in configs} == {1}


@pytest.mark.parametrize("kill", [(1, 0), (1, 5), (2, 2), (3, 0), (3, 1)])
def test_a_killed_search_ends_as_one_that_was_not(trials, tmp_path, kill):
    search(tmp_path / "whole", trials)
    whole, trials.stages = main_table(tmp_path / "whole"), []
    trials.kill = kill
    with pytest.raises(KilledError):
        search(tmp_path / "killed", trials)
    trials.kill = None
    search(tmp_path / "killed", trials)
    assert main_table(tmp_path / "killed") == whole
    cells = [read_cells(read_manifest(tmp_path / name)) for name in ("whole", "killed")]
    assert cells[0] == cells[1]
    done = len(trials.stages)
    search(tmp_path / "killed", trials)
    assert len(trials.stages) == done, "a finished search trains nothing"


def test_a_report_halfway_says_what_is_left(trials, tmp_path):
    trials.kill = (2, 1)
    with pytest.raises(KilledError):
        search(tmp_path, trials)
    study = load_study(tmp_path)
    assert study.search.chosen is None
    table = {line[0]: line[-1] for line in main_table(tmp_path)[1]}
    assert table["gn:groups=1"] == "dropped after epoch 2"
    assert table["gn:size=4"] == table["gn:groups=8"] == "being trained"
    statuses = {row.labels["norm"]: row.status for row in summarize_study(study)}
    assert statuses["gn:groups=1"] == "finished"
    assert "partial" in {statuses["gn:size=4"], statuses["gn:groups=8"], statuses["gn:size=8"]}


def test_what_diverges_is_dropped_and_the_rest_goes_on(trials, tmp_path):
    trials.diverge = ("gn:groups=8", "gn:size=4")
    search(tmp_path, trials)
    table = {line[0]: line[1:] for line in main_table(tmp_path)[1]}
    assert table["gn:groups=8"] == ["diverged", "\u2013", "\u2013", "diverged"]
    assert table["gn:size=8"][-1] == "chosen"


def test_when_all_diverge_nothing_is_chosen(trials, tmp_path):
    trials.diverge = tuple(FINAL)
    search(tmp_path, trials)
    assert rungs(trials) == [(2, 9)]
    assert load_study(tmp_path).search.everything_diverged


def test_equal_errors_go_to_what_is_nearer_to_32_groups(trials, tmp_path):
    trials.final = dict.fromkeys(FINAL, 30.0)
    search(tmp_path, trials)
    assert trials.stages[1][1] == {("gn:size=2", 0), ("gn:groups=16", 0), ("gn:size=4", 0)}
    assert trials.stages[2][1] == {("gn:size=2", 0), ("gn:size=2", 1)}


def test_a_look_at_the_untrained_networks_discards_what_lies_far_off(trials, tmp_path, monkeypatch):
    def far(config, batches):
        noise = None if config.norm_text == "gn:size=2" else 0.3
        return {"norm": config.norm_text, "gain": 1.0, "noise": noise}

    said = search(tmp_path, trials, far)
    assert "discarded gn:size=2: a group has a single value in some layer" in said
    assert ("gn:size=2", 0) not in trials.stages[0][1]
    assert rungs(trials)[0] == (2, 8)
    assert list(load_study(tmp_path).search.discarded) == ["gn:size=2"]


def test_refinement_goes_stage_by_stage_and_counts(trials, tmp_path):
    better = "gn:groups=8 stage2=gn:groups=16"
    trials.final[better] = 26.0
    search(tmp_path, trials, refine=True)
    stages = [{norm for norm, _ in runs} for _, runs in trials.stages[3:]]
    assert stages == [
        {"gn:groups=8 stage1=gn:groups=16", "gn:groups=8 stage1=gn:groups=4"},
        {better, "gn:groups=8 stage2=gn:groups=4"},
        {f"{better} stage3=gn:groups=16", f"{better} stage3=gn:groups=4"},
        {better},
    ]
    assert [stop for stop, _ in trials.stages[3:]] == [18] * 4
    study = load_study(tmp_path)
    assert study.search.chosen == study.search.refined == better
    assert epochs_trained(study) == 60 + 7 * 18
    (row,) = [row for row in summarize_study(study) if row.labels["norm"] == better]
    assert sorted(row.results) == [0, 1]
    table = {line[0]: line[-1] for line in main_table(tmp_path)[1]}
    assert table[better] == "chosen"
    assert table["gn:groups=8"] == "best rule, then refined"
    assert table["gn:groups=8 stage1=gn:groups=4"] == "not better"


def test_rules_that_hardly_differ_are_not_refined(trials, tmp_path):
    trials.final = {norm: 30 + number / 20 for number, norm in enumerate(FINAL)}
    search(tmp_path, trials, refine=True)
    assert rungs(trials) == [(2, 9), (6, 3), (18, 2)]
    assert math.isclose(load_study(tmp_path).search.rungs[0].spread, 0.4)
    assert not load_study(tmp_path).search.refines
