"""The study of conversions: its networks, their recipe, its trials."""

import pytest

from groupnorm.data import load
from groupnorm.experiments import Options, study_plan
from groupnorm.experiments.conversion import HELD_OUT, METHODS, NAIVE, PARTS
from groupnorm.study.conversions.trial import DISTILLATION, FITTED, Trial
from groupnorm.study.plan import PlanError

SCALES = ("quick", "full", "smoke")


@pytest.mark.parametrize("scale", SCALES)
def test_every_network_has_its_trials_each_once(scale):
    plan = study_plan("convert", Options(scale=scale))
    assert plan.conversions.keys() == {cell.labels["network"] for cell in plan.cells}
    assert (plan.shows, plan.untimed) == (
        "conversions", "the study compares conversions, not training"
    )  # fmt: skip
    for found in plan.conversions.values():
        names = [trial.name for trial in found.trials]
        assert names[0] == Trial("teacher").name
        assert len(set(names)) == len(names)
        asked = {(trial.method, trial.to) for trial in found.trials}
        assert {("fit", to) for to in found.aims} <= asked


@pytest.mark.parametrize("scale", SCALES)
def test_teachers_are_plain_batch_norm_and_hold_images_out(scale):
    for config in study_plan("convert", Options(scale=scale)).configs.values():
        assert config.norm_text == "bn"
        assert config.validation_images
        assert config.workers == 1


def test_the_networks_of_full_and_what_is_aimed_at():
    plan = study_plan("convert", Options(scale="full"))
    aims = {name: found.aims["gn"] for name, found in plan.conversions.items()}
    assert aims == {
        "ResNet-20, Fashion-MNIST": 99.0, "MobileNet, Fashion-MNIST": 95.0,
        "Pre-activation ResNet-20, Fashion-MNIST": 99.0, "ResNet-20, scenes": 99.0,
        "MobileNet, scenes": 95.0, "Pre-activation ResNet-20, scenes": 99.0,
        "U-Net, garments": 99.0,
    }  # fmt: skip
    assert plan.data_sets == ("fashion-mnist-mini", "fashion-scenes", "garments-masks")
    assert len(plan.cells) == 21


def test_the_grid_of_full_is_from_one_group_to_one_channel():
    trials = study_plan("convert", Options(scale="full")).conversions
    for name, found in trials.items():
        studied = name in ("ResNet-20, Fashion-MNIST", "MobileNet, Fashion-MNIST")
        numbers = (1, 2, 4, 8, 16, 32) if studied else (1, 4, 8, 16, 32)
        for method in (*NAIVE, *METHODS):
            asked = {t.to for t in found.trials if t.method == method and not t.steps}
            fixed = {*(f"gn:groups={n}" for n in numbers), "gn:size=1"}
            assert asked == fixed | ({FITTED} if method in METHODS else set())
        assert any(t.steps == 100 and t.target == DISTILLATION for t in found.trials)


@pytest.mark.parametrize("name", ["ResNet-20", "MobileNet"])
def test_parts_images_and_fine_tuning_are_studied_with_two_networks(name):
    found = study_plan("convert", Options(scale="full")).conversions[f"{name}, Fashion-MNIST"]
    methods = {trial.method for trial in found.trials}
    assert methods >= {*(f"fit, {part}" for part in PARTS), "BN", "frozen BN", "scratch"}
    at_8 = {t.images for t in found.trials if (t.method, t.to) == ("fit", "gn:groups=8")}
    assert at_8 == {8, 32, 128, 512}
    assert {t.steps for t in found.trials} == {0, 10, 30, 100, 300}


def test_the_images_that_calibrate_are_there():
    plan = study_plan("convert", Options(scale="full"))
    most = max(t.images for found in plan.conversions.values() for t in found.trials)
    assert most <= HELD_OUT


def test_data_sets_have_the_images_that_a_teacher_needs():
    config = next(iter(study_plan("convert", Options(scale="quick")).configs.values()))
    images = load(config.data).hold_out(config.validation_images)
    assert images.train_size >= config.train_images
    assert images.test_size == HELD_OUT


def test_seeds_can_be_chosen_and_the_recipe_cannot():
    assert len(study_plan("convert", Options(scale="quick", seeds=(4, 5))).cells) == 4
    with pytest.raises(PlanError, match="unknown key 'epochs'"):
        study_plan("convert", Options(epochs=3))
