"""Every experiment of the catalogue: its words, its cells, its plan, and its smoke scale."""

import functools
import json
from dataclasses import replace

import pytest
import torch

from groupnorm.experiments import EXPERIMENTS, Options, build, study_plan
from groupnorm.layers import norm_layer
from groupnorm.models import (
    build_detector,
    build_model,
    build_segmentation_model,
    build_video_model,
)
from groupnorm.run import run
from groupnorm.spec import NormSpec
from groupnorm.study.plan import PlanError
from groupnorm.study.results import published
from groupnorm.study.store import read_cells
from groupnorm.training.config import DetectionConfig, RunConfig, SegmentationConfig, VideoConfig

SCALES = [(name, scale) for name, entry in EXPERIMENTS.items() for scale in entry.scales]
PUBLISHED = [name for name in EXPERIMENTS if build(name).result is not None]
CLASSIFIERS = [name for name in PUBLISHED if not name.startswith(("coco", "kinetics"))]
# One smoke run for each model, norm and data set, however many experiments have it.
SMOKE = {
    (variant.config.model, str(variant.config.norm), variant.config.data): variant.config
    for name in CLASSIFIERS
    for variant in build(name, Options(scale="smoke")).variants
}
QUICK = ("resnet56", "resnet34-gn-")


def smoke_runs():
    for parts, config in SMOKE.items():
        name = "-".join(parts)
        marks = [] if name.startswith(QUICK) else [pytest.mark.slow]
        yield pytest.param(config, marks=marks, id=name)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_it_says_what_it_is(name):
    experiment = build(name)
    assert experiment.title
    assert experiment.source
    assert not experiment.result or experiment.time
    for table in experiment.published:
        assert published.load(table).id == table


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_comparison_has_its_numbers_and_command_in_its_docstring(name):
    make = EXPERIMENTS[name].make
    docstring = getattr(make, "func", make).__doc__
    base = name.removesuffix("-one-worker")
    assert f"`groupnorm study {base}`" in docstring or f"`{base}`" in docstring
    assert "Smoke" in docstring or "smoke" in docstring or name == "imagenet-batch-renorm"


@pytest.mark.parametrize(("name", "scale"), SCALES)
def test_plans_are_consistent(name, scale):
    experiment = build(name, Options(scale=scale))
    plan = study_plan(name, Options(scale=scale))
    assert (plan.study, plan.scale, plan.shows) == (name, scale, experiment.shows)
    assert plan.published == experiment.published
    assert plan.tuned_over == (experiment.tune.field if experiment.tune else None)
    if plan.tuned_over:  # its cells are known when a value is chosen
        runs = {variant.config.run_name() for variant in experiment.variants}
        assert (plan.cells, len(plan.configs)) == ([], len(runs))
        return
    seeds = [variant.seeds or experiment.seeds for variant in experiment.variants]
    assert len(plan.cells) == sum(seeds)
    assert {cell.run for cell in plan.cells} == set(plan.configs)
    timed = scale != "smoke" and not plan.conversions
    assert (plan.untimed is None) == timed
    labels = []
    for cell in plan.cells:
        config = plan.configs[cell.run]
        assert config.seed == cell.seed
        by_norm = "norm" in cell.labels
        assert not by_norm or str(config.norm) == cell.labels["norm"]
        assert config.run_name() == cell.run
        assert (cell.labels, cell.seed) not in labels
        labels.append((cell.labels, cell.seed))
    assert len({frozenset(keys) for keys, _ in labels}) == 1
    if experiment.shows == "groups":
        assert {keys["division"] for keys, _ in labels} == {"groups", "size"}
    manifest = {"cells": [vars(cell) for cell in plan.cells]}
    assert read_cells(json.loads(json.dumps(manifest))) == plan.cells
    assert json.loads(json.dumps(plan.options))["scale"] == scale


@functools.cache
def on_meta(config):
    with torch.device("meta"):
        if isinstance(config, DetectionConfig):
            return build_detector(
                config.model, norm=config.norm, norms=config.norms, box_head=config.box_head,
                num_classes=5, canvas=96, freeze_at=config.freeze_at,
            )  # fmt: skip
        if isinstance(config, VideoConfig):
            return build_video_model(config.model, norm=config.norm, num_classes=10)
        if isinstance(config, SegmentationConfig):
            return build_segmentation_model(
                config.model, norm=config.norm, norms=config.norms, num_classes=11
            )
        return build_model(config.model, norm=config.norm, num_classes=10)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_model_is_built(name):
    experiment = build(name)
    for config in (*experiment.initial, *(variant.config for variant in experiment.variants)):
        names = {"model", "norm", "norms", "box_head", "freeze_at"} & type(
            config
        ).model_fields.keys()
        model = on_meta(type(config)(**{name: getattr(config, name) for name in names}, steps=1))
        assert next(model.parameters()).is_meta


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_a_user_gives_reaches_every_run(name):
    kinds = (DetectionConfig, RunConfig, VideoConfig)
    fields = {field for kind in kinds for field in kind.model_fields}
    given = fields & set(EXPERIMENTS[name].takes) - {"norms", "validation_images"}
    for variant in build(name).variants:
        assert given <= type(variant.config).model_fields.keys()


def test_runs_that_others_start_from_are_planned():
    experiment = build("detection")
    plan = study_plan("detection", Options(seeds=1, train_images=500))
    assert list(plan.initial.values()) == list(experiment.initial)
    assert {config.init for config in plan.configs.values()} == {*plan.initial, None}
    assert (plan.metric, plan.also) == (experiment.metric, experiment.also)
    assert {config.train_images for config in plan.configs.values()} == {500}
    assert {config.train_images for config in plan.initial.values()} == {None}
    repeated = sum(variant.seeds or experiment.seeds for variant in experiment.variants)
    assert experiment.runs == len(experiment.initial) + repeated


def test_epochs_take_the_place_of_steps(monkeypatch):
    made = build("detection")
    entry = replace(EXPERIMENTS["detection"], make=lambda options: made, decides=())
    monkeypatch.setitem(EXPERIMENTS, "detection", entry)
    plan = study_plan("detection", Options(epochs=3))
    assert {(config.epochs, config.steps) for config in plan.configs.values()} == {(3, None)}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_full_scale_is_the_published_one(name):
    for variant in build(name).variants:
        config = variant.config
        assert config.data == name.split("-")[0]
        assert config.epochs in (25, 90, 100)
        if name.startswith("imagenet") and "large-batch" not in name:
            assert config.learning_rate == pytest.approx(0.1 * config.batch_per_worker / 32)
            assert (config.workers, config.epochs, config.image_size) == (8, 100, 224)
        if name.endswith("one-worker"):
            assert config.workers == 1
        if name.startswith("cifar10"):
            assert config.learning_rate == pytest.approx(0.1 * config.batch_per_worker / 32)


def test_the_two_learning_rate_conventions_differ_by_the_workers():
    (paper,) = {v.config.base_lr for v in build("cifar10-resnet56-groups").variants}
    copies = build("cifar10-resnet56-groups-one-worker").variants
    assert {v.config.base_lr for v in copies} == {8 * paper}


def test_labels_of_the_extremes():
    """One group is layer norm; one channel per group is instance norm, with scale and shift."""
    norms = {
        (v.labels["division"], v.labels["value"]): v.config.norm
        for v in build("cifar10-resnet56-groups").variants
    }
    assert norm_layer(norms["groups", 1])(32).num_groups == norm_layer("ln")(32).num_groups == 1
    assert norm_layer(norms["size", 1])(32).num_groups == norm_layer("in")(32).num_groups == 32
    assert norm_layer("in")(32).affine


def test_every_norm_of_pets_is_tuned_alike():
    tried = {}
    plan = study_plan("pets-resnet34")
    for cell in plan.tuning({"name": "pets", "train": 3680, "classes": 37})["cells"]:
        key = (cell["labels"]["norm"], cell["labels"]["batch_per_worker"])
        tried.setdefault(key, []).append(cell["labels"]["base_lr"])
    assert len(tried) == 6
    assert {tuple(rates) for rates in tried.values()} == {(0.1, 0.4, 1.6)}
    assert build("pets-resnet34").runs == 6 + 18


def test_any_experiment_is_tuned_on_request():
    plan = study_plan("groups", Options(tune="weight_decay=0,1e-4", validation_images=500))
    tuning = plan.tuning({"name": "fashion-scenes", "train": 6000, "classes": 10})
    assert plan.tuned_over == "weight_decay"
    assert tuning["validation_images"] == 500
    assert len(tuning["cells"]) == 2 * len(plan.configs)
    assert plan.options["tune"] == "weight_decay=0.0,0.0001"
    again = study_plan("groups", Options(**plan.options))
    assert again.options == plan.options
    pets = study_plan("pets-resnet34", Options(tune="base_lr=0.2,0.3"))
    found = pets.tuning({"name": "pets", "train": 3680, "classes": 37})["cells"]
    assert {cell["labels"]["base_lr"] for cell in found} == {0.2, 0.3}


def test_what_a_user_may_change():
    options = Options(
        data="imagefolder",
        epochs=3,
        evaluate_every=2,
        seeds=2,
        train_images=640,
        image_size=96,
        max_unreadable=0.1,
    )
    plan = study_plan("imagenet-batch-size", options)
    assert plan.data == "imagefolder"
    assert {(c.epochs, c.train_images, c.evaluate_every) for c in plan.configs.values()} == {
        (3, 640, 2)
    }
    assert {(c.image_size, c.max_unreadable) for c in plan.configs.values()} == {(96, 0.1)}
    assert len(plan.configs) == 20
    arms = study_plan("detection", Options(max_unreadable=0.1))
    both = [*arms.configs.values(), *arms.initial.values()]
    assert {config.max_unreadable for config in both} == {0.1}
    assert arms.initial.keys() == study_plan("detection").initial.keys()
    small = study_plan("imagenet-batch-size", Options(data="digits"))
    assert {c.image_size for c in small.configs.values()} == {None}, "digits have a size already"


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("imagenet-table-9", {}, "unknown study 'imagenet-table-9'; known: batch-size, norms"),
        ("imagenet-norms", {"data": "cats"}, "unknown data set 'cats'"),
        ("imagenet-norms", {"data": "digits", "image_size": 64}, "digits have a size of their"),
        ("imagenet-norms", {"scale": "smoke", "epochs": 2}, "smoke scale has two steps"),
        ("imagenet-norms", {"scale": "quick"}, "scale must be 'full' or 'smoke', got 'quick'"),
        ("norms", {"scale": "full"}, "scale must be 'quick', 'standard' or 'paper', got 'full'"),
        ("groups", {"norms": ("gn",)}, "unknown key 'norms'; known keys: scale, data, model, b"),
        (
            "norms",
            {"validation_images": 100},
            "validation_images goes with tune or search: ",
        ),
        ("norms", {"tune": "base_lr=0,0.1"}, "base_lr must be greater than 0, got 0"),
        ("pets-resnet34", {"model": "vgg16"}, "unknown key 'model'; known keys: scale, data, tr"),
    ],
)
def test_options_that_make_no_study(name, fields, message):
    with pytest.raises(PlanError, match=message):
        study_plan(name, Options(**fields))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_norm_is_read_once(name, monkeypatch):
    read = []
    parse = NormSpec.parse.__func__
    monkeypatch.setattr(
        NormSpec, "parse", classmethod(lambda cls, text: read.append(text) or parse(cls, text))
    )
    plan = study_plan(name)
    norms = {str(config.norm) for config in plan.configs.values()}
    assert len(read) <= len(norms) + 1, "one for each norm, and one for the recipe's own"


@pytest.mark.parametrize("config", list(smoke_runs()))
def test_the_smoke_scale_runs(config):
    assert config.steps == 2
    result = run(config, with_cost=False)
    assert result.status == "finished"
    assert result.metrics[-1]["step"] == 2
    assert 0 < result.metrics[-1]["train_loss"] < 8
    assert torch.isfinite(torch.tensor(result.metrics[-1]["val_error"]))
