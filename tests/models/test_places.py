"""Norms of places: every model has its norms where the place says, and only there."""

import pytest
import torch

from groupnorm.layers import GroupNorm
from groupnorm.models import build_model, check_places, places_of, widths_of_place
from groupnorm.run.classification import build

MODELS = (
    "resnet8", "preact_resnet8", "mobilenet_narrow", "resnet18", "resnet50", "vgg16",
    "resnet14_narrow", "unet_encoder",
)  # fmt: skip


def groups_by_layer(model):
    return {n: m.num_groups for n, m in model.named_modules() if isinstance(m, GroupNorm)}


def place_of(name, layer):
    """The place of a norm, from its name in the model."""
    if name == "vgg16":
        index = int(layer.split(".")[1])
        ends = (6, 13, 23, 33, 43)  # the max poolings
        return f"stage{1 + sum(index > end for end in ends)}"
    parts = layer.split(".")
    if parts[0] == "encoder":
        return f"stage{int(parts[1]) + 1}"
    if parts[0] == "last_norm":
        return places_of(name)[-1]
    if parts[0] == "stages":
        return f"stage{int(parts[1]) + 1}"
    return parts[0].replace("layer", "stage") if parts[0].startswith("layer") else "stem"


@pytest.mark.parametrize("name", MODELS)
def test_each_place_has_its_norm(name):
    norms = {place: f"gn:groups={2**n}" for n, place in enumerate(places_of(name))}
    with torch.device("meta"):
        model = build_model(name, norm="ln", norms=norms, num_classes=3)
    found = groups_by_layer(model)
    assert {place_of(name, layer) for layer in found} == set(norms)
    for layer, groups in found.items():
        assert norms[place_of(name, layer)] == f"gn:groups={groups}"


@pytest.mark.parametrize("name", [*MODELS, "resnet20", "resnet34", "resnet101"])
def test_the_widths_of_a_place_are_those_of_its_norms(name):
    with torch.device("meta"):
        model = build_model(name, norm="gn", num_classes=3)
    found = {}
    for layer, norm in model.named_modules():
        if isinstance(norm, GroupNorm):
            found.setdefault(place_of(name, layer), set()).add(norm.num_channels)
    assert found == {place: set(widths_of_place(name, place)) for place in places_of(name)}


def test_widths_of_a_place_follow_the_factor():
    assert widths_of_place("resnet8", "stage3", 0.25) == (16,)
    assert widths_of_place("preact_resnet8", "stage3", 0.25) == (8, 16)


@pytest.mark.parametrize("name", MODELS)
def test_other_places_keep_the_norm_of_the_model(name):
    with torch.device("meta"):
        plain = groups_by_layer(build_model(name, norm="gn:groups=4", num_classes=3))
        model = build_model(name, norm="gn:groups=4", norms={"stage2": "ln"}, num_classes=3)
    for layer, groups in groups_by_layer(model).items():
        assert groups == (1 if place_of(name, layer) == "stage2" else plain[layer])


@pytest.mark.parametrize("name", MODELS)
def test_norms_of_places_draw_the_same_weights(name):
    """Group norms with another number of groups have the parameters of the first."""
    if name == "vgg16":
        pytest.skip("its linear layers take a second; the stages are one loop")
    models = []
    for norms in ({}, {"stage1": "gn:groups=2"}):
        torch.manual_seed(0)
        models.append(build_model(name, norm="gn:groups=8", norms=norms, num_classes=3))
    first, second = (model.state_dict() for model in models)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_shortcut_belongs_to_the_stage_of_its_block():
    norms = {"stage1": "ln", "stage2": "gn:groups=2"}
    model = build_model("resnet8", norm="in", norms=norms, num_classes=3, shortcut="B")
    assert model.stages[1][0].shortcut[1].num_groups == 2
    assert model.stages[2][0].shortcut[1].num_groups == 64


def test_weights_are_standardized_where_the_norm_says():
    model = build_model("resnet8", norm="gn", norms={"stage3": "gn+ws"}, num_classes=3)
    assert type(model.conv1) is torch.nn.Conv2d
    assert "WS" in type(model.stages[2][0].conv1).__name__


@pytest.mark.parametrize("name", MODELS)
def test_unknown_places_list_the_known_ones(name):
    told = f"{name} has no place 'stage9'; its places: {', '.join(places_of(name))}$"
    with pytest.raises(ValueError, match=told):
        check_places(name, ["stage1", "stage9"])
    with pytest.raises(ValueError, match=told):
        build_model(name, norm="gn", norms={"stage9": "gn"}, num_classes=3)


def test_normalizer_free_blocks_are_of_the_whole_network():
    for norm, given in (("gn", "none+nf"), ("none+nf", "gn")):
        with pytest.raises(ValueError, match=r"none\+nf changes the blocks of the whole network"):
            build_model("resnet8", norm=norm, norms={"stage1": given}, num_classes=3)


def test_a_run_builds_them():
    """Batch norm in a place takes its statistics from the images of a worker."""
    from types import SimpleNamespace

    from groupnorm.training.config import RunConfig

    norms = {"stem": "bn", "stage3": "gn:groups=auto"}
    config = RunConfig(
        model="resnet8", norm="gn:groups=2", norms=norms, batch_per_worker=4, epochs=1
    )
    model = build(config, SimpleNamespace(num_classes=3, channels=1), "cpu")
    assert model.norm1.batch_per_worker == 4
    assert model.stages[2][0].norm1.num_groups == 16
    assert model.stages[0][0].norm1.num_groups == 2
