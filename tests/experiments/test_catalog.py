"""Every published comparison: its words, its cells, and its smoke scale, which runs."""

import functools

import pytest
import torch

from groupnorm.experiments import EXPERIMENTS
from groupnorm.layers import norm_layer
from groupnorm.models import build_model
from groupnorm.run import check, run
from groupnorm.spec import NormSpec
from groupnorm.study.results import published

# One smoke run for each model, norm and data set, however many experiments have it.
SMOKE = {
    (variant.config.model, str(variant.config.norm), variant.config.data): variant.config
    for recipe in EXPERIMENTS.values()
    for variant in recipe("smoke").variants
}
QUICK = ("resnet56", "resnet34-gn-")


def smoke_runs():
    for parts, config in SMOKE.items():
        name = "-".join(parts)
        marks = [] if name.startswith(QUICK) else [pytest.mark.slow]
        yield pytest.param(config, marks=marks, id=name)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_it_says_what_it_is(name):
    recipe = EXPERIMENTS[name]
    experiment = recipe("full")
    assert experiment.name == name
    assert experiment.title
    assert experiment.source
    assert experiment.result
    assert experiment.time
    docstring = getattr(recipe, "func", recipe).__doc__
    base = name.removesuffix("-one-worker")
    assert f"`groupnorm study {base}`" in docstring or f"`{base}`" in docstring
    assert "Smoke" in docstring or "smoke" in docstring or name == "imagenet-batch-renorm"
    for table in experiment.published:
        assert published.load(table).id == table


@pytest.mark.parametrize("scale", ["full", "smoke"])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_cells_are_distinct_and_buildable(name, scale):
    experiment = EXPERIMENTS[name](scale)
    seen = []
    for variant in experiment.variants:
        config = variant.config
        check(config)
        assert str(NormSpec.parse(variant.labels["norm"])) == str(NormSpec.parse(config.norm))
        assert config.batch_per_worker == variant.labels["batch_per_worker"]
        if experiment.tuned_over:
            assert getattr(config, experiment.tuned_over) == variant.labels[experiment.tuned_over]
        assert variant.labels not in seen
        seen.append(variant.labels)
    if experiment.shows == "groups":
        assert {labels["division"] for labels in seen} == {"groups", "size"}
    keys = set(seen[0])
    assert all(set(labels) == keys for labels in seen)


@functools.cache
def build(model, norm):
    with torch.device("meta"):
        return build_model(model, norm=norm, num_classes=10)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_model_is_built(name):
    for variant in EXPERIMENTS[name]("full").variants:
        model = build(variant.config.model, str(variant.config.norm))
        assert next(model.parameters()).is_meta


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_full_scale_is_the_published_one(name):
    experiment = EXPERIMENTS[name]("full")
    for variant in experiment.variants:
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
    (paper,) = {v.config.base_lr for v in EXPERIMENTS["cifar10-resnet56-groups"]("full").variants}
    copies = EXPERIMENTS["cifar10-resnet56-groups-one-worker"]("full").variants
    assert {v.config.base_lr for v in copies} == {8 * paper}


def test_labels_of_the_extremes():
    """One group is layer norm; one channel per group is instance norm, with scale and shift."""
    labels = {
        (v.labels["division"], v.labels["value"]): v.config.norm
        for v in EXPERIMENTS["cifar10-resnet56-groups"]("full").variants
    }
    assert norm_layer(labels["groups", 1])(32).num_groups == norm_layer("ln")(32).num_groups == 1
    assert norm_layer(labels["size", 1])(32).num_groups == norm_layer("in")(32).num_groups == 32
    assert norm_layer("in")(32).affine


def test_every_norm_of_pets_is_tuned_alike():
    cells = EXPERIMENTS["pets-resnet34"]("full").variants
    tried = {}
    for variant in cells:
        key = (variant.labels["norm"], variant.labels["batch_per_worker"])
        tried.setdefault(key, []).append(variant.labels["base_lr"])
    assert len(tried) == 6
    assert len({tuple(rates) for rates in tried.values()}) == 1


@pytest.mark.parametrize("config", list(smoke_runs()))
def test_the_smoke_scale_runs(config):
    assert config.steps == 2
    result = run(config, with_cost=False)
    assert result.status == "finished"
    assert result.metrics[-1]["step"] == 2
    assert 0 < result.metrics[-1]["train_loss"] < 8
    assert torch.isfinite(torch.tensor(result.metrics[-1]["val_error"]))
