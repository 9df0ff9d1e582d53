"""Plans: the cells of a study, the runs they share, and options that make no study."""

import pytest

from groupnorm.experiments.studies import STUDIES, batch_size, groups, norms
from groupnorm.study.plan import PlanError, StudyOptions, with_batch


def options(**fields):
    return StudyOptions(**{"data": "digits", "epochs": 2, **fields})


def test_fixed_step_trains_a_batch_independent_norm_once():
    plan = batch_size(options(norms=("bn", "gn", "gn+ws"), batch_sizes=(32, 8, 2)))
    assert len(plan.cells) == 9
    assert len(plan.configs) == 5
    runs = {norm: {c.run for c in plan.cells if c.labels["norm"] == norm} for norm in ("bn", "gn")}
    assert len(runs["bn"]) == 3
    assert len(runs["gn"]) == 1
    assert {c.step_images for c in plan.configs.values()} == {64}
    assert len({c.learning_rate for c in plan.configs.values()}) == 1


def test_the_paper_protocol_has_eight_workers_and_lr_follows_n():
    plan = batch_size(options(norms=("gn",), batch_sizes=(32, 2), protocol="paper", scale="paper"))
    big, small = (plan.configs[cell.run] for cell in plan.cells)
    assert (big.workers, big.batch_per_worker, big.learning_rate) == (8, 32, pytest.approx(0.1))
    assert (small.workers, small.batch_per_worker) == (8, 2)
    assert small.learning_rate == pytest.approx(0.1 * 2 / 32)


@pytest.mark.parametrize(
    ("scale", "protocol", "sizes", "seeds"),
    [
        ("quick", "fixed-step", [32, 8, 2], 1),
        ("standard", "fixed-step", [32, 16, 8, 4, 2], 3),
        ("paper", "paper", [32, 16, 8, 4, 2], 1),
    ],
)
def test_scales(scale, protocol, sizes, seeds):
    plan = batch_size(StudyOptions(scale=scale))
    assert plan.protocol == protocol
    bn = [c for c in plan.cells if c.labels["norm"] == "bn"]
    assert [c.labels["batch_per_worker"] for c in bn if c.seed == 0] == sizes
    assert {c.seed for c in bn} == set(range(seeds))


def test_the_paper_scale_is_the_papers_recipe():
    (config,) = {
        c.model_copy(update={"norm": "gn", "batch_per_worker": 32})
        for c in batch_size(StudyOptions(scale="paper")).configs.values()
    }
    assert (config.epochs, config.schedule, config.base_lr) == (100, "step", 0.1)
    assert config.train_images is None
    assert (config.momentum, config.nesterov, config.weight_decay) == (0.9, True, 1e-4)


def test_seeds_are_runs_of_their_own():
    plan = batch_size(options(norms=("bn",), batch_sizes=(8,), seeds=3))
    assert sorted(config.seed for config in plan.configs.values()) == [0, 1, 2]


def test_norms_study_is_figure_four():
    plan = norms(options())
    kinds = [cell.labels["norm"].split(":")[0] for cell in plan.cells]
    assert kinds == ["bn", "ln", "in", "gn"]
    assert {cell.labels["batch_per_worker"] for cell in plan.cells} == {32}


def test_groups_study_says_what_it_skips():
    plan = groups(options())
    asked = {(c.labels["division"], c.labels["value"]) for c in plan.cells}
    assert asked == {(d, v) for d in ("groups", "size") for v in (16, 8, 4, 2, 1)}
    skipped = {(s["labels"]["division"], s["labels"]["value"]): s["reason"] for s in plan.skipped}
    assert set(skipped) == {(d, v) for d in ("groups", "size") for v in (64, 32)}
    assert skipped["groups", 64] == "16 channels cannot be divided into 64 groups"
    assert skipped["size", 32] == "16 channels cannot be divided into groups of 32"


@pytest.mark.parametrize(
    ("study", "fields", "message"),
    [
        ("batch-size", {"data": "cifar"}, "unknown data set 'cifar'; known: digits"),
        ("batch-size", {"data": "./cats"}, "is --data imagefolder --data-root ./cats"),
        ("batch-size", {"image_size": 64}, "digits have a size of their own; image_size is"),
        ("batch-size", {"data": "pets", "image_size": 8}, "image_size must be at least 32, got 8"),
        ("batch-size", {"max_unreadable": 1.5}, "max_unreadable must be at most 1, got 1.5"),
        ("batch-size", {"model": "resnet9"}, "unknown model 'resnet9'"),
        ("batch-size", {"norms": ("bn", "xn")}, "known kinds"),
        ("batch-size", {"norms": ("gn", "gn:groups=32")}, "given twice: gn"),
        ("batch-size", {"norms": ()}, "no norm"),
        ("batch-size", {"batch_sizes": (24,)}, "64 images of a step, 24 does not"),
        ("batch-size", {"batch_sizes": (0,)}, "at least 1, got 0"),
        ("batch-size", {"batch_sizes": (8, 8)}, "given twice"),
        ("batch-size", {"epochs": 0}, "epochs must be at least 1"),
        ("batch-size", {"train_images": 0}, "train_images must be at least 1"),
        ("batch-size", {"seeds": 0}, "seeds must be at least 1"),
        ("batch-size", {"seeds": 10**5}, "seeds must be at most 1000, got 100000"),
        ("batch-size", {"epochs": 10**10}, "epochs must be at most 1,000,000,000"),
        ("batch-size", {"batch_sizes": ()}, "no batch size"),
        ("norms", {"batch_sizes": ()}, "one batch size, got none"),
        ("norms", {"batch_sizes": (8, 2)}, "one batch size"),
        ("groups", {"norms": ("gn",)}, "leave --norms out"),
    ],
)
def test_options_that_make_no_study(study, fields, message):
    with pytest.raises(PlanError, match=message):
        STUDIES[study](options(**fields))


def test_size_and_unreadable_share_of_image_files():
    plan = batch_size(options(data="pets", image_size=64, max_unreadable=0.05))
    assert {(c.image_size, c.max_unreadable) for c in plan.configs.values()} == {(64, 0.05)}
    strict = batch_size(options(data="pets", image_size=64))
    assert list(strict.configs) == list(plan.configs), "it is no part of a run's name"


def test_with_batch():
    assert with_batch(8, "paper") == {"workers": 8, "batch_per_worker": 8}
    assert with_batch(2, "fixed-step") == {"workers": 32, "batch_per_worker": 2}
