"""The rules that a search chooses from, and its plan, without training anything."""

import pytest

from groupnorm.experiments import Options, study_plan
from groupnorm.experiments.search import alternatives, long_enough, rules_of
from groupnorm.models import widths_of_place
from groupnorm.study.plan import PlanError
from groupnorm.training.config import RunConfig


def base(**fields):
    return RunConfig(**{"model": "resnet8", "data": "digits", "epochs": 42, **fields})


def norms(rules):
    return [str(config.norm) for config in rules.configs]


def test_the_rules_come_in_the_order_of_ties_and_misfits_say_why():
    rules, skipped = rules_of(base())
    assert norms(rules) == [
        "gn:size=2", "gn:groups=16", "gn:size=4", "gn:groups=8", "gn:size=8", "gn:groups=4",
        "gn:size=16", "gn:groups=2", "gn:groups=1",
    ]  # fmt: skip
    ((spec, why),) = skipped
    assert (str(spec), why) == ("gn", "16 channels cannot be divided into 32 groups")
    assert rules.parts == ("stage1", "stage2", "stage3")


@pytest.mark.parametrize("model", ["resnet18", "resnet50", "vgg16"])
def test_networks_for_imagenet_can_have_all_ten(model):
    rules, skipped = rules_of(base(model=model))
    assert len(rules.configs) == 10
    assert skipped == []
    assert norms(rules)[0] == "gn"
    assert "stem" not in rules.parts


def test_rules_that_give_the_same_layers_are_one(monkeypatch):
    monkeypatch.setattr("groupnorm.experiments.search.channel_widths", lambda *_: (32,))
    rules, _ = rules_of(base())
    assert rules.same == {"gn:size=2": "gn:groups=16", "gn:size=4": "gn:groups=8",
                          "gn:size=8": "gn:groups=4", "gn:size=16": "gn:groups=2"}  # fmt: skip
    assert norms(rules) == ["gn", "gn:groups=16", "gn:groups=8", "gn:groups=4", "gn:groups=2",
                            "gn:groups=1"]  # fmt: skip


def test_a_network_with_one_division_is_refused():
    with pytest.raises(PlanError, match="1, 2, 4 channels has only one of the divisions"):
        rules_of(base(width=1 / 16))


def test_alternatives_have_twice_and_half_the_groups_in_one_place():
    found = alternatives(base(norm="gn:groups=8"), "stage1")
    assert [c.norm_text for c in found] == [
        "gn:groups=8 stage1=gn:groups=16",
        "gn:groups=8 stage1=gn:groups=4",
    ]
    found = alternatives(base(norm="gn:size=2"), "stage3")
    assert [c.norm_text for c in found] == [
        "gn:size=2 stage3=gn:size=1",
        "gn:size=2 stage3=gn:size=4",
    ]
    placed = base(norm="gn:groups=8", norms={"stage1": "gn:groups=16"})
    assert [c.norm_text for c in alternatives(placed, "stage1")] == ["gn:groups=8"]
    assert [c.norm_text for c in alternatives(placed, "stage2")] == [
        "gn:groups=8 stage1=gn:groups=16 stage2=gn:groups=16",
        "gn:groups=8 stage1=gn:groups=16 stage2=gn:groups=4",
    ]
    assert alternatives(base(norm="gn:groups=1", width=1 / 16), "stage1") == []


def test_every_alternative_fits_the_network():
    for model in ("resnet8", "resnet50", "vgg16"):
        rules, _ = rules_of(base(model=model))
        for config in rules.configs:
            for place in rules.parts:
                widths = widths_of_place(model, place)
                for other in alternatives(config, place):
                    spec = other.norms[place]
                    assert spec != config.norm
                    assert all(width % (spec.size or spec.groups) == 0 for width in widths)


def test_a_recipe_of_too_few_epochs_gets_more_and_a_user_who_asks_for_them_is_told():
    assert long_enough(base(epochs=10), None).epochs == 42
    assert long_enough(base(epochs=21), None).epochs == 21
    assert long_enough(base(epochs=30), 30).epochs == 30
    with pytest.raises(PlanError, match="give epochs=21 at least, got 20"):
        long_enough(base(epochs=20), 20)
    with pytest.raises(PlanError, match="cannot be given a number of steps"):
        long_enough(base(epochs=None, steps=5), None)


def test_the_plan_goes_by_stages_and_the_record_says_how_to_plan_it_again():
    plan = study_plan("groups", Options(search="true", data="digits", seeds=3))
    assert plan.shows == "search"
    assert plan.options["search"] is True
    assert plan.next_stage is not None
    assert len(plan.configs) == 9
    again = study_plan(plan.study, Options(**plan.options))
    assert again.configs == plan.configs
    described = plan.search({"train": 1437, "classes": 10, "name": "digits"})
    assert described == {
        "full_epochs": 42, "rungs": [2, 6, 18], "reported_epochs": 1, "seeds": [0, 1, 2],
        "refine": False, "parts": ["stage1", "stage2", "stage3"], "validation_images": 143,
        "same": {},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"refine": True}, "refine goes with search"),
        ({"search": True, "tune": "base_lr=0.1,0.2"}, "tune does not go with search"),
        ({"search": True, "evaluate_every": 2}, "evaluate_every does not go with search"),
        ({"search": True, "epochs": 10}, "give epochs=21 at least, got 10"),
        ({"search": "perhaps"}, "search must be true or false, got 'perhaps'"),
    ],
)
def test_options_that_make_no_search(fields, message):
    with pytest.raises(PlanError, match=message):
        study_plan("groups", Options(data="digits", **fields))


def test_more_images_held_out_than_there_are():
    plan = study_plan("groups", Options(search=True, data="digits", validation_images=2000))
    with pytest.raises(PlanError, match="validation_images=2000 leaves nothing to train on"):
        plan.search({"train": 1437, "classes": 10, "name": "digits"})
