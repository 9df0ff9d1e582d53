"""The words of a search."""

import json

from groupnorm.study.report.text import describe
from groupnorm.study.results.rows import load_study, summarize_study
from tests.study.fake_search import FINAL, Trials, search


def words(out):
    study = load_study(out)
    return describe(study, summarize_study(study))


def test_the_first_sentence_is_what_was_chosen_with_its_interval(tmp_path):
    search(tmp_path)
    initial = tmp_path / "initial.json"
    initial.write_text(json.dumps({**json.loads(initial.read_text()), "seconds": 4.0}))
    finding, chance, how, cost, before = words(tmp_path)
    assert finding == (
        "Of 9 rules for the number of groups gn:groups=8 was chosen: 29.3 % ± 0.2 error after 18 "
        "of 42 epochs, 95 % interval 27.8 to 30.9, 2 seeds. As settings of a run: norm=gn:groups=8."
    )
    assert chance.startswith(
        "The runner-up, gn:size=8, was 1.0 points behind when it was dropped after epoch 6, with "
        "one seed each: there is no interval"
    )
    assert "143 held-out training images; the runs have not seen the test images" in chance
    assert "every rule up to epoch 2, the best three on to epoch 6" in how
    assert cost == (
        "The search trained 60 epochs in all, as many as 1.43 full runs of 42 epochs; every rule "
        "to its end would have been 9. Before that it looked at the untrained networks for 4.0 s."
    )
    assert before.endswith("Nothing lies far off, so nothing was discarded.")


def test_one_seed_has_no_interval(tmp_path):
    search(tmp_path, seeds=1)
    assert "29.2 % error after 18 of 42 epochs, 1 seed. As settings" in words(tmp_path)[0]
    assert "interval" not in words(tmp_path)[0]


def test_a_refinement_is_compared_with_the_rule_over_the_same_seeds(tmp_path):
    trials = Trials()
    better = "gn:groups=8 stage1=gn:groups=16"
    trials.final[better] = 25.0
    search(tmp_path, trials, refine=True)
    finding, chance, *_, refinement = words(tmp_path)
    assert "was chosen and refined by stage" in finding
    assert "As settings of a run: norm=gn:groups=8 norms.stage1=gn:groups=16." in finding
    assert f"Against the best rule: {better} has 2.0 points less error than gn:groups=8" in chance
    assert "6 runs, stage1 changed." in refinement


def test_what_is_not_done_and_what_diverged(tmp_path):
    trials = Trials()
    trials.diverge = tuple(FINAL)
    search(tmp_path, trials)
    assert words(tmp_path)[0].startswith("Every rule that was left has diverged")


def test_rules_that_lie_close_are_not_refined_and_the_text_says_so(tmp_path):
    trials = Trials()
    trials.final = {norm: 30 + number / 20 for number, norm in enumerate(FINAL)}
    search(tmp_path, trials, refine=True)
    assert words(tmp_path)[-1] == (
        "After epoch 2 the rules lay 0.4 points apart, not more than 0.5: no stage was given a "
        "number of its own."
    )
