"""Comparisons on small images, and their recipes: complete configurations that train."""

import pytest

from groupnorm.experiments import Options, small_images, study_plan
from groupnorm.experiments.small_images import QUICK_IMAGES, QUICK_SETS, STEP_IMAGES, batch_fields
from groupnorm.run import run
from groupnorm.spec import NormSpec
from groupnorm.study.plan import PlanError


def test_quick_is_a_fixed_step_recipe():
    config = small_images.quick()
    assert config.step_images == STEP_IMAGES == 32
    assert config.learning_rate == pytest.approx(0.1)
    assert config.train_images == QUICK_IMAGES
    assert (config.reported_epochs, config.schedule) == (1, "cosine")
    assert not config.zero_gamma
    assert small_images.standard() == config


@pytest.mark.parametrize("data", ["digits", "imagefolder", "pets", "imagenet", "photo-patches"])
def test_other_data_sets_are_trained_on_as_a_whole(data):
    assert small_images.quick(data=data).train_images is None
    assert small_images.quick(data=data).size_schedule == ()
    assert small_images.quick(data="cifar100").train_images == QUICK_IMAGES


@pytest.mark.parametrize("data", QUICK_SETS)
def test_images_grow_to_their_own_size(data):
    assert small_images.quick(data=data).size_schedule[-1][0] < 28


@pytest.mark.parametrize(("model", "grow"), [("resnet20", True), ("resnet18", False)])
def test_a_network_for_large_images_gets_none_of_16_pixels(model, grow):
    found = study_plan("batch-size", Options(model=model))
    assert {bool(config.size_schedule) for config in found.configs.values()} == {grow}


def test_paper_is_the_papers_recipe():
    config = small_images.paper()
    assert (config.workers, config.batch_per_worker, config.epochs) == (8, 32, 100)
    assert (config.base_lr, config.learning_rate, config.schedule) == (0.1, 0.1, "step")
    assert (config.momentum, config.nesterov, config.weight_decay) == (0.9, True, 1e-4)
    assert config.train_images is None
    assert (config.zero_gamma, config.size_schedule, config.reported_epochs) == (True, (), 5)


@pytest.mark.parametrize("recipe", [small_images.quick, small_images.standard, small_images.paper])
def test_two_steps_of_every_recipe(recipe):
    config = recipe(data="digits").model_copy(update={"epochs": None, "steps": 2, "workers": 1})
    result = run(config)
    assert result.status == "finished"
    assert result.metrics[-1]["step"] == 2
    assert 0 < result.metrics[-1]["train_loss"] < 4


def plan(name, **fields):
    return study_plan(name, Options(**{"data": "digits", "epochs": 2, **fields}))


def test_the_default_is_what_the_readme_promises():
    found = study_plan("batch-size")
    assert found.options["data"] == "fashion-scenes"
    assert {c.model for c in found.configs.values()} == {"resnet8"}
    norms = list(dict.fromkeys(cell.labels["norm"] for cell in found.cells))
    assert [norm.split(":")[0] for norm in norms] == ["bn", "gn", "gn"]
    assert norms[2].endswith("+ws")
    assert len(found.configs) == 3 * 5
    assert {config.seed for config in found.configs.values()} == {0, 1, 2}


def test_fixed_step_trains_a_batch_independent_norm_once():
    found = plan("batch-size", norms=("bn", "gn", "gn+ws"), batch_sizes=(32, 8, 2), seeds=1)
    assert len(found.cells) == 9
    assert len(found.configs) == 5
    runs = {norm: {c.run for c in found.cells if c.labels["norm"] == norm} for norm in ("bn", "gn")}
    assert len(runs["bn"]) == 3
    assert len(runs["gn"]) == 1
    assert {c.step_images for c in found.configs.values()} == {32}
    assert len({c.learning_rate for c in found.configs.values()}) == 1


def test_the_paper_protocol_has_eight_workers_and_lr_follows_n():
    found = plan("batch-size", norms=("gn",), batch_sizes=(32, 2), protocol="paper", scale="paper")
    big, small = (found.configs[cell.run] for cell in found.cells)
    assert (big.workers, big.batch_per_worker, big.learning_rate) == (8, 32, pytest.approx(0.1))
    assert (small.workers, small.batch_per_worker) == (8, 2)
    assert small.learning_rate == pytest.approx(0.1 * 2 / 32)


@pytest.mark.parametrize("scale", ["quick", "standard", "paper"])
def test_the_paper_protocol_has_the_papers_gamma_and_sizes(scale):
    found = study_plan("batch-size", Options(scale=scale, protocol="paper"))
    assert {(c.zero_gamma, c.size_schedule) for c in found.configs.values()} == {(True, ())}


@pytest.mark.parametrize(
    ("scale", "protocol", "sizes", "seeds"),
    [
        ("quick", "fixed-step", [32, 8, 2], 3),
        ("standard", "fixed-step", [32, 16, 8, 4, 2], 3),
        ("paper", "paper", [32, 16, 8, 4, 2], 1),
    ],
)
def test_scales(scale, protocol, sizes, seeds):
    found = study_plan("batch-size", Options(scale=scale))
    assert found.protocol == protocol
    bn = [c for c in found.cells if c.labels["norm"] == "bn"]
    assert [c.labels["batch_per_worker"] for c in bn if c.seed == 0] == sizes
    assert {c.seed for c in bn} == set(range(seeds))


def test_the_paper_scale_is_the_papers_recipe():
    (config,) = {
        c.model_copy(update={"norm": NormSpec("gn"), "batch_per_worker": 32})
        for c in study_plan("batch-size", Options(scale="paper")).configs.values()
    }
    assert (config.epochs, config.schedule, config.base_lr) == (100, "step", 0.1)
    assert config.train_images is None
    assert (config.momentum, config.nesterov, config.weight_decay) == (0.9, True, 1e-4)


def test_seeds_are_runs_of_their_own():
    found = plan("batch-size", norms=("bn",), batch_sizes=(8,), seeds=3)
    assert sorted(config.seed for config in found.configs.values()) == [0, 1, 2]


def test_norms_study_is_figure_four():
    found = plan("norms", seeds=1)
    kinds = [cell.labels["norm"].split(":")[0] for cell in found.cells]
    assert kinds == ["bn", "ln", "in", "gn"]
    assert {cell.labels["batch_per_worker"] for cell in found.cells} == {32}


def test_groups_study_says_what_it_skips():
    found = plan("groups")
    asked = {(c.labels["division"], c.labels["value"]) for c in found.cells}
    assert asked == {(d, v) for d in ("groups", "size") for v in (16, 8, 4, 2, 1)}
    skipped = {(s["labels"]["division"], s["labels"]["value"]): s["reason"] for s in found.skipped}
    assert set(skipped) == {(d, v) for d in ("groups", "size") for v in (64, 32)}
    assert skipped["groups", 64] == "16 channels cannot be divided into 64 groups"
    assert skipped["size", 32] == "16 channels cannot be divided into groups of 32"


@pytest.mark.parametrize(
    ("study", "fields", "message"),
    [
        ("batch-size", {"batch_sizes": (24,)}, "32 images of a step, 24 does not"),
        ("batch-size", {"batch_sizes": (64,)}, "64 does not; choose from 32, 16, 8, 4, 2 or use"),
        ("norms", {"batch_sizes": (8, 2)}, "one batch size, got 8, 2"),
        ("groups", {"batch_sizes": (8, 2)}, "use 'groupnorm study batch-size'"),
        ("groups", {"model": "resnet9"}, "unknown model 'resnet9'"),
    ],
)
def test_options_that_make_no_study(study, fields, message):
    with pytest.raises(PlanError, match=message):
        plan(study, **fields)


def test_the_paper_protocol_takes_any_batch_size():
    assert batch_fields(24, "paper") == {"workers": 8, "batch_per_worker": 24}
