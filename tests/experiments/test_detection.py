"""The study of detectors: its arms, the runs that they share, and its smoke scale."""

from collections import Counter

import pytest

from groupnorm.experiments import Options, build, detection, study_plan
from groupnorm.spec import NormSpec
from groupnorm.study.plan import PlanError
from groupnorm.training.config import DetectionConfig, RunConfig

FROZEN = {"backbone": NormSpec("frozenbn")}
FINE_TUNED = ["frozen BN", "BN trained at 2", "GN", "GN+WS", "GN, backbone pretrained longer"]
SCRATCH = ["BN at 2 from scratch", "GN+WS from scratch"]


def arms(scale="quick", **options):
    """The configurations of a plan by arm and seed, and the plan."""
    plan = study_plan("detection", Options(scale=scale, **options))
    return {(cell.labels["arm"], cell.seed): plan.configs[cell.run] for cell in plan.cells}, plan


def start_of(plan, config):
    return plan.initial.get(config.init)


def test_the_arms_of_quick_and_their_seeds():
    found, plan = arms()
    assert list(found) == [(arm, seed) for arm in FINE_TUNED for seed in (0, 1)] + [
        (arm, 0) for arm in SCRATCH
    ]
    assert (plan.shows, plan.protocol, plan.data) == ("arms", "fixed-step", "garments")
    assert plan.metric.name == "box_ap"
    assert [m.name for m in plan.also] == [
        "box_ap50",
        "box_ap75",
        "mask_ap",
        "mask_ap50",
        "mask_ap75",
    ]


def test_every_arm_of_quick_has_the_same_recipe():
    found, _ = arms()
    differ = ("norm", "norms", "init", "seed", "steps")
    assert {config.model_dump_json(exclude={*differ}) for config in found.values()} == {
        detection.quick().model_dump_json(exclude={*differ})
    }
    assert {(arm, config.steps) for (arm, _), config in found.items()} == {
        *((arm, 500) for arm in FINE_TUNED), *((arm, 1000) for arm in SCRATCH)
    }  # fmt: skip
    base = detection.quick()
    assert base.learning_rate == pytest.approx(0.03)
    assert (base.workers, base.batch_per_worker, base.head_init) == (4, 2, "he")


def test_where_norms_are():
    found, _ = arms()
    for (arm, _), config in found.items():
        if arm == "frozen BN":
            assert (str(config.norm), config.norms) == ("none", FROZEN)
        else:
            assert config.norms == {"mask_head": NormSpec("none")}
            kind = "bn" if arm.startswith("BN") else "gn:groups=8"
            assert str(config.norm) == kind + "+ws" * ("WS" in arm)


def test_a_backbone_is_pretrained_once_with_its_own_norm():
    found, plan = arms(seeds=3)
    assert len(plan.initial) == 4
    uses = Counter(config.init for config in found.values())
    assert sorted(uses[name] for name in plan.initial) == [3, 3, 3, 6], (
        "frozen and trained BN share"
    )
    for (arm, _), config in found.items():
        start = start_of(plan, config)
        if "scratch" in arm:
            assert start is None
            continue
        assert isinstance(start, RunConfig)
        assert (start.data, start.model, start.seed) == ("garments-crops", "resnet14_narrow", 0)
        assert str(start.norm) == ("bn" if arm == "frozen BN" else str(config.norm))
        longer = "longer" in arm
        assert start.epochs == (detection.LONGER_EPOCHS if longer else detection.PRETRAINING_EPOCHS)
    (longer,) = {c.init for (arm, _), c in found.items() if "longer" in arm}
    (usual,) = {c.init for (arm, _), c in found.items() if arm == "GN"}
    first, second = plan.initial[usual], plan.initial[longer]
    assert first.model_copy(update={"epochs": second.epochs}) == second


def test_standard_has_batch_norm_at_one_and_retinanet():
    found, plan = arms("standard")
    assert plan.data == "garments-128"
    of_training = Counter(cell.labels["training"] for cell in plan.cells)
    steps = detection.standard().steps
    assert of_training == {
        f"{steps:,} steps": 12, f"{2 * steps:,} steps": 2, f"RetinaNet, {steps:,} steps": 3,
    }  # fmt: skip
    one = found["BN trained at 1", 0]
    two = found["BN trained at 2", 0]
    assert (one.workers, one.batch_per_worker, one.step_images) == (8, 1, two.step_images)
    assert {seed for arm, seed in found if arm == "BN trained at 1"} == {0, 1}
    retina = {arm: c for (arm, _), c in found.items() if c.model == "retinanet_narrow"}
    places = {
        arm: (str(c.norm), {k: str(v) for k, v in c.norms.items()}) for arm, c in retina.items()
    }
    assert places == {
        "AffineChannel": ("none", {"backbone": "frozenbn"}),
        "GN in pyramid": ("none", {"backbone": "frozenbn", "fpn": "gn:groups=8"}),
        "GN in pyramid, heads and backbone": ("gn:groups=8", {}),
    }
    assert {start_of(plan, c).epochs for c in retina.values()} == {detection.PRETRAINING_EPOCHS}


@pytest.mark.parametrize("scale", detection.SCALES)
def test_arms_are_told_apart_by_their_name(scale):
    labels = [variant.labels for variant in build("detection", Options(scale=scale)).variants]
    assert len({one["arm"] for one in labels}) == len(labels)
    assert {tuple(one) for one in labels} == {("arm", "training")}


@pytest.mark.parametrize("scale", detection.SCALES)
def test_arms_from_scratch_are_not_compared_with_fine_tuned_ones(scale):
    found, plan = arms(scale)
    labels = {cell.labels["arm"]: cell.labels["training"] for cell in plan.cells}
    scratch = {labels[arm] for (arm, _), config in found.items() if config.init is None}
    others = {labels[arm] for (arm, _), config in found.items() if config.init is not None}
    assert len(scratch) == 1
    assert not scratch & others


def test_seeds_are_of_every_arm():
    found, _ = arms(seeds="5,7")
    assert Counter(arm for arm, _ in found) == dict.fromkeys([*FINE_TUNED, *SCRATCH], 2)
    assert {seed for _, seed in found} == {5, 7}


def test_training_images_are_of_detectors_alone():
    found, plan = arms(train_images=400)
    assert {config.train_images for config in found.values()} == {400}
    assert {config.train_images for config in plan.initial.values()} == {None}
    assert set(plan.initial) == set(arms()[1].initial)


def test_smoke_is_a_few_steps_of_all_kinds_of_arms():
    found, plan = arms("smoke")
    assert list(found) == [(arm, 0) for arm in (*FINE_TUNED[:-1], *SCRATCH)]
    every = [*found.values(), *plan.initial.values()]
    assert {config.steps for config in every} == {2}
    assert {type(config) for config in every} == {DetectionConfig, RunConfig}
    assert all(config.validation_images for config in every)
    assert all(config.train_images == config.step_images for config in every), "two epochs"
    assert plan.untimed


@pytest.mark.parametrize(
    "fields",
    [
        {"norms": "gn"},
        {"batch_sizes": "1"},
        {"data": "coco"},
        {"model": "retinanet_narrow"},
        {"epochs": 2},
        {"image_size": 96},
        {"tune": "base_lr=0.1,0.2"},
        {"protocol": "paper"},
    ],
)
def test_what_the_study_decides_itself(fields):
    with pytest.raises(PlanError, match="unknown key"):
        study_plan("detection", Options(**fields))


@pytest.mark.parametrize(("scale", "count"), [("quick", 5), ("standard", 6)])
def test_published_findings_are_about_arms_of_the_study(scale, count):
    plan = study_plan("detection", Options(scale=scale))
    labels = [cell.labels for cell in plan.cells]
    assert len(plan.findings) == count
    for finding in plan.findings:
        assert finding.better in labels
        assert finding.worse in labels
        assert finding.better["training"] == finding.worse["training"]
    assert plan.findings[1].better["arm"] == "GN"
