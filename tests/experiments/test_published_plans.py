"""Published comparisons as plans."""

import json

import pytest

from groupnorm.experiments import EXPERIMENTS
from groupnorm.experiments.published_plans import experiment_plan
from groupnorm.study.plan import ExperimentOptions, PlanError
from groupnorm.study.store import read_cells


@pytest.mark.parametrize("scale", ["full", "smoke"])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_plans_are_consistent(name, scale):
    experiment = EXPERIMENTS[name](scale)
    plan = experiment_plan(name, ExperimentOptions(scale=scale))
    assert (plan.study, plan.shows) == (name, experiment.shows)
    assert (plan.published, plan.tuned_over) == (experiment.published, experiment.tuned_over)
    assert len(plan.cells) == len(experiment.variants) * experiment.seeds
    assert {cell.run for cell in plan.cells} == set(plan.configs)
    for cell in plan.cells:
        config = plan.configs[cell.run]
        assert (config.norm, config.seed) == (cell.labels["norm"], cell.seed)
        assert config.run_name() == cell.run
    manifest = {"cells": [vars(cell) for cell in plan.cells]}
    assert read_cells(json.loads(json.dumps(manifest))) == plan.cells
    full = {"imagenet": "imagenet", "pets": "pets", "cifar10": "cifar10"}[name.split("-")[0]]
    assert plan.data == (full if scale == "full" else experiment.variants[0].config.data)


def test_what_a_user_may_change():
    options = ExperimentOptions(
        data="imagefolder", epochs=3, seeds=2, train_images=640, image_size=96, max_unreadable=0.1
    )
    plan = experiment_plan("imagenet-batch-size", options)
    assert plan.data == "imagefolder"
    assert {(c.epochs, c.train_images) for c in plan.configs.values()} == {(3, 640)}
    assert {(c.image_size, c.max_unreadable) for c in plan.configs.values()} == {(96, 0.1)}
    assert len(plan.configs) == 20
    small = experiment_plan("imagenet-batch-size", ExperimentOptions(data="digits"))
    assert {c.image_size for c in small.configs.values()} == {None}, "digits have a size already"


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("imagenet-table-9", {}, "unknown study 'imagenet-table-9'; known: imagenet-batch-size"),
        ("imagenet-norms", {"data": "cats"}, "unknown data set 'cats'"),
        ("imagenet-norms", {"data": "digits", "image_size": 64}, "digits have a size of their"),
        ("imagenet-norms", {"seeds": 0}, "seeds must be at least 1"),
        ("imagenet-norms", {"scale": "smoke", "epochs": 2}, "smoke scale has two steps"),
    ],
)
def test_what_makes_no_study(name, fields, message):
    with pytest.raises(PlanError, match=message):
        experiment_plan(name, ExperimentOptions(**fields))
