"""The words of a search."""

import json
from dataclasses import replace

import pytest

from groupnorm.study.report.page import write_report
from groupnorm.study.report.text import describe
from groupnorm.study.results.outcomes import rung_table
from groupnorm.study.results.rows import load_study, summarize_study
from tests.study.fake_search import FINAL, KilledError, Trials, search


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
    assert (
        "143 validation images, held out of the training images; the runs have not seen" in chance
    )
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
    finding, chance, _, cost, _, refinement = words(tmp_path)
    assert finding.startswith(
        "Of 9 rules for the number of groups gn:groups=8 was chosen: 29.3 % ± 0.2 error after 18 "
        "of 42 epochs, 95 % interval 27.8 to 30.9, 2 seeds. Refined by stage, which took 3.00 full "
        f"runs more, it became {better}: 27.3 % ± 0.2 error, 95 % interval"
    )
    assert "186 epochs in all, as many as 4.43 full runs of 42 epochs" in cost
    assert "Of these the refinement by stage took 3.00 full runs." in cost
    assert "As settings of a run: norm=gn:groups=8 norms.stage1=gn:groups=16." in finding
    assert f"Against the best rule: {better} has 2.0 points less error than gn:groups=8" in chance
    assert "6 runs, stage1 changed." in refinement


def test_a_refinement_that_changed_nothing_is_counted_and_not_said_to_be_chosen(tmp_path):
    search(tmp_path, refine=True)
    finding, _, _, cost, *_ = words(tmp_path)
    assert "Refined" not in finding
    assert "6 runs, no stage changed." in words(tmp_path)[-1]
    assert "Of these the refinement by stage took 2.57 full runs." in cost


def test_a_rung_that_the_tie_rule_decided_says_so(tmp_path):
    trials = Trials()
    trials.error = lambda norm, epoch, seed: 90.0
    search(tmp_path, trials)
    assert words(tmp_path)[1] == (
        "After epoch 2 all 9 rules had the same error, 90.0 %. The tie rule alone let gn:size=2, "
        "gn:groups=16 and gn:size=4 go on: the choice says nothing about the rules. After epoch 6 "
        "all 3 rules had the same error, 90.0 %. The tie rule alone let gn:size=2 go on: the "
        "choice says nothing about the rules. After epochs 2, 6 and 18 no rule was clearly "
        "better than guessing one of 10 classes, an error of 90.0 %: nothing was learned yet that "
        "tells rules apart. A longer schedule has longer rungs."
    )


def test_a_place_that_the_tie_rule_gave_is_named(tmp_path):
    trials = Trials()
    trials.final |= {"gn:size=2": 29.0, "gn:size=4": 29.0}
    search(tmp_path, trials)
    assert words(tmp_path)[1] == (
        "After epoch 2 gn:size=2 and gn:size=4 had the same error, 49.0 %, with places for 1 of "
        "them. The tie rule, not an error, let gn:size=2 go on."
    )


def test_rules_no_better_than_guessing_by_chance_alone_say_so(tmp_path):
    """Two standard errors of 143 images at 90 % are 5.0 points."""
    trials, final = Trials(), dict(zip(FINAL, range(len(FINAL)), strict=True))
    for lowest, said in ((85.1, True), (84.9, False)):
        trials.error = lambda norm, epoch, seed, low=lowest: low + final[norm] / 4 * (epoch < 3)
        search(tmp_path / str(lowest), trials)
        assert ("better than guessing" in words(tmp_path / str(lowest))[1]) is said


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


@pytest.mark.parametrize(
    ("kill", "best", "seeds", "refinement"),
    [
        ((3, 1), "gn:groups=8", 1, "0 runs so far, in 0 of 3 stages, no stage changed."),
        ((4, 1), "gn:groups=8", 2, "0 runs so far, in 0 of 3 stages, no stage changed."),
        ((5, 0), "gn:groups=8 stage1=gn:groups=16", 1,
         "2 runs so far, in 1 of 3 stages, stage1 changed."),
        ((7, 1), "gn:groups=8 stage1=gn:groups=16", 1, "6 runs, stage1 changed."),
    ],
)  # fmt: skip
def test_a_search_that_was_killed_near_its_end_does_not_say_that_it_has_chosen(
    tmp_path, kill, best, seeds, refinement
):
    trials = Trials()
    trials.kill, trials.final["gn:groups=8 stage1=gn:groups=16"] = kill, 25.0
    with pytest.raises(KilledError):
        search(tmp_path, trials, refine=True)
    study = load_study(tmp_path)
    assert not study.search.done
    text = words(tmp_path)
    assert text[0].startswith(f"The search is not done; best so far is {best}: ")
    assert f"{seeds} of 2 seeds. The same command goes on with it." in text[0]
    assert "chosen" not in text[0]
    assert "As settings" not in " ".join(text)
    assert text[2].startswith("The search trains ")
    assert text[3].startswith("The search has trained ")
    assert any(part.endswith(refinement) for part in text)
    assert rung_table(study, summarize_study(study))[1][0][-1] == "best so far"


def test_a_part_that_has_not_begun_is_not_done(tmp_path):
    """Killed after the last rung, before the first part: no cell tells of any part."""
    trials = Trials()
    trials.kill = (4, 0)
    with pytest.raises(KilledError):
        search(tmp_path, trials, refine=True)
    manifest = tmp_path / "study.json"
    found = json.loads(manifest.read_text())
    found["cells"] = [c for c in found["cells"] if c["labels"]["step"] == "rules"]
    manifest.write_text(json.dumps(found))
    study = load_study(tmp_path)
    assert study.search.steps == []
    assert not study.search.done
    assert words(tmp_path)[-1].endswith("0 runs so far, in 0 of 3 stages, no stage changed.")


def test_own_names_are_in_the_whole_text_but_not_in_the_settings(tmp_path):
    def far(config, batches):
        return {"norm": config.norm_text, "gain": 9.0 if "=2" in config.norm_text else 1.0,
                "noise": 0.3}  # fmt: skip

    trials = Trials()
    better = "gn:groups=8 stage1=gn:groups=16"
    trials.final[better] = 25.0
    search(tmp_path, trials, far, refine=True)
    study = load_study(tmp_path)
    study.search.settings["same"]["gn:groups=32"] = "gn:size=4"
    own = {norm: f"Rule {number}" for number, norm in enumerate(FINAL)}
    study = replace(study, names={**own, better: "Mine", "gn:groups=32": "Many"})
    text = " ".join(describe(study, summarize_study(study)))
    assert "Against the best rule: Mine has 2.0 points less error than Rule 3" in text
    assert "Rule 0 was discarded (" in text
    assert "Many gives the same layers as Rule 2." in text
    settings = "norm=gn:groups=8 norms.stage1=gn:groups=16"
    assert settings in text
    assert "gn:" not in text.replace(settings, "")


def test_a_rule_that_was_not_trained_can_have_a_name(tmp_path, monkeypatch):
    def far(config, batches):
        noise = None if config.norm_text == "gn:size=2" else 0.3
        return {"norm": config.norm_text, "gain": 1.0, "noise": noise}

    search(tmp_path, look=far)
    monkeypatch.setattr("groupnorm.study.report.page.build_figures", lambda study, rows: [])
    page = write_report(tmp_path, labels=["gn:size=2=Pairs"])[0].read_text()
    assert "Pairs was discarded (a group has a single value" in page
