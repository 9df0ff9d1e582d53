"""The study of fine-tuning on another task: its arms, what they share, and its smoke scale."""

from collections import Counter

import pytest

from groupnorm.experiments import Options, build, fine_tuning, study_plan
from groupnorm.models import check_model
from groupnorm.models.segmentation.architectures import segmentation_architecture_of
from groupnorm.spec import NormSpec
from groupnorm.study.plan import PlanError
from groupnorm.study.validation import with_validation

ARMS = list(fine_tuning.ARMS)


def arms(scale="quick", **options):
    """The configurations of a plan by arm, images per worker and seed, and the plan."""
    plan = study_plan("fine-tuning", Options(scale=scale, **options))
    found = {
        (cell.labels["arm"], cell.labels["batch_per_worker"], cell.seed): plan.configs[cell.run]
        for cell in plan.cells
    }
    return found, plan


def test_the_arms_of_quick():
    found, plan = arms()
    assert list(found) == [(arm, size, 0) for size in (1, 2, 4) for arm in ARMS]
    assert (plan.shows, plan.protocol, plan.data) == ("fine-tuning", "fixed-step", "garments-masks")
    assert plan.metric.name == "val_mean_iou"
    assert (plan.tuned_over, plan.untimed) == (None, None)


def test_every_arm_has_the_same_recipe_and_decoder():
    found, _ = arms(seeds=2)
    differ = {
        "norms", "init", "init_norms", "init_offset_limit", "seed", "workers", "batch_per_worker",
    }  # fmt: skip
    assert {config.model_dump_json(exclude=differ) for config in found.values()} == {
        fine_tuning.recipe().model_dump_json(exclude=differ)
    }
    assert {str(config.norm) for config in found.values()} == {"gn:groups=8"}
    assert all(set(config.norms) <= {"encoder"} for config in found.values())
    assert {config.step_images for config in found.values()} == {8}
    for (_, size, _), config in found.items():
        if config.uses_batch_statistics:
            assert config.batch_per_worker == size


def test_only_trained_batch_norm_depends_on_the_images_per_worker():
    found, plan = arms()
    runs = {arm: {found[arm, size, 0].run_name() for size in (1, 2, 4)} for arm in ARMS}
    assert {arm: len(names) for arm, names in runs.items()} == {
        arm: 3 if arm == "BN trained" else 1 for arm in ARMS
    }
    assert len(plan.configs) == 9


def test_what_becomes_of_the_encoder():
    made = {arm: arms()[0][arm, 1, 0] for arm in ARMS}
    assert {arm: (str(one.encoder_norm), one.init_norms) for arm, one in made.items()} == {
        "converted": ("gn", "convert"), "converted, 8 groups": ("gn:groups=8", "convert"),
        "converted, 8 groups, no offsets": ("gn:groups=8", "convert"),
        "reset GN": ("gn:groups=8", "reset"), "frozen BN": ("frozenbn", "keep"),
        "BN trained": ("bn", "keep"), "GN from scratch": ("gn:groups=8", "keep"),
    }  # fmt: skip
    limits = {arm: one.init_offset_limit for arm, one in made.items()}
    assert limits == dict.fromkeys(ARMS) | {"converted, 8 groups, no offsets": 0}


def test_one_classifier_is_the_start_of_all_arms_but_that_from_scratch():
    found, plan = arms(seeds=3)
    ((name, start),) = plan.initial.items()
    assert (start.data, start.norm, start.batch_per_worker) == (
        "fashion-scenes", NormSpec("bn"), 32,
    )  # fmt: skip
    assert start.model == segmentation_architecture_of(fine_tuning.recipe().model).body
    check_model(start.model, sizes=[size for size, _ in start.size_schedule])
    assert Counter(config.init for config in found.values()) == {name: 3 * 3 * 6, None: 3 * 3}


def test_curves_have_enough_points():
    recipe = fine_tuning.recipe()
    steps = recipe.train_images // recipe.step_images
    assert all(step % steps == 0 for step in (100, 300, recipe.steps))
    assert recipe.steps // steps >= 10
    assert recipe.evaluate_every == 1


def test_full_is_tuned_on_images_held_out():
    plan = study_plan("fine-tuning", Options(scale="full"))
    assert (plan.cells, plan.tuned_over) == ([], "base_lr")
    assert plan.tuning is not None
    assert fine_tuning.recipe().base_lr in fine_tuning.RATES
    held = plan.tuning({"train": 5000, "classes": 11})
    assert held["validation_images"] == fine_tuning.HELD_OUT
    without = with_validation(fine_tuning.recipe(), {"train": 5000}, fine_tuning.HELD_OUT)
    assert without["train_images"] == 400, "as many as of all"
    given = study_plan("fine-tuning", Options(scale="full", validation_images=99))
    assert given.tuning({"train": 5000, "classes": 11})["validation_images"] == 99
    assert len(held["cells"]) == 3 * 7 * len(fine_tuning.RATES)
    assert len({cell["run"] for cell in held["cells"]}) == 9 * len(fine_tuning.RATES)


def test_smoke_is_two_steps_of_each():
    found, plan = arms("smoke")
    assert len(found) == 21
    assert {config.steps for config in found.values()} == {2}
    assert all(c.validation_images for c in (*found.values(), *plan.initial.values()))
    assert plan.tuned_over is None


@pytest.mark.parametrize(
    "fields",
    [{"norms": "gn"}, {"batch_sizes": "1"}, {"data": "coco"}, {"model": "unet_narrow"},
     {"epochs": 2}, {"image_size": 96}, {"protocol": "paper"}, {"search": True}],
)  # fmt: skip
def test_what_the_study_decides_itself(fields):
    with pytest.raises(PlanError, match="unknown key"):
        study_plan("fine-tuning", Options(**fields))


def test_the_first_arm_is_what_the_others_are_compared_with():
    variants = build("fine-tuning", Options(scale="quick")).variants
    assert variants[0].labels == {"arm": fine_tuning.CONVERTED, "batch_per_worker": 1}
