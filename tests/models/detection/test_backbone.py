"""The stages of a classifier, as a detector takes them."""

import pytest
import torch
from torch import nn

from groupnorm.layers import FrozenBatchNorm, norm_layer, norm_modules
from groupnorm.models import build_model
from groupnorm.models.detection.backbone import (
    Backbone,
    classification_body,
    stage_channels,
    stage_strides,
)
from tests.tolerances import LAYER


@pytest.mark.parametrize(
    ("name", "stages"),
    [("resnet14_narrow", (1, 2, 3)), ("resnet18", (1, 2, 3, 4)), ("resnet50", (3,))],
)
def test_channels_and_strides_are_those_of_the_maps(name, stages):
    with torch.device("meta"):
        model = classification_body(name, norm_layer("gn"), 0)
        maps = Backbone(model, stages, None, 0)(torch.zeros(1, 3, 64, 96))
    assert [*maps] == [str(number) for number in range(len(stages))]
    assert [value.shape[1] for value in maps.values()] == stage_channels(name, stages)
    sizes = [(value.shape[2], value.shape[3]) for value in maps.values()]
    assert sizes == [(64 // stride, 96 // stride) for stride in stage_strides(stages)]


def test_the_maps_are_those_of_the_classifier_in_it():
    torch.manual_seed(0)
    model = build_model("resnet14_narrow", norm="gn", num_classes=3)
    x = torch.randn(2, 3, 48, 48)
    logits = model(x)
    last = Backbone(model, (1, 2, 3), None, 0)(x)["2"]
    assert torch.equal(model.fc(last.mean((2, 3))), logits)


@pytest.mark.parametrize("freeze_at", [0, 1, 2, 4])
def test_what_is_frozen_counts_from_the_stem(freeze_at):
    model = classification_body("resnet14_narrow", norm_layer("gn"), freeze_at)
    parts = [[model.conv1, model.bn1], [model.layer1], [model.layer2], [model.layer3]]
    for number, part in enumerate(parts):
        learns = {p.requires_grad for module in part for p in module.parameters()}
        assert learns == {number >= freeze_at}


def test_batch_norm_of_a_frozen_stage_is_frozen_and_takes_its_statistics():
    norm = norm_layer("bn:eps=1e-4+ws", batch_per_worker=2)
    model = classification_body("resnet14_narrow", norm, 2)
    norms = dict(norm_modules(model))
    for name, layer in norms.items():
        assert isinstance(layer, FrozenBatchNorm) == (name == "bn1" or name.startswith("layer1"))
        assert layer.eps == 1e-4
    trained = build_model("resnet14_narrow", norm=norm, num_classes=1)
    for layer in (module for _, module in norm_modules(trained)):
        (
            layer.running_mean.normal_(),
            layer.running_var.uniform_(0.5, 2),
            nn.init.normal_(layer.bias),
        )
    model.load_state_dict(trained.state_dict())
    x = torch.randn(2, 3, 32, 32)
    trained.eval()
    expected = trained.layer1(trained.relu(trained.bn1(trained.conv1(x))))
    found = model.train().layer1(model.relu(model.bn1(model.conv1(x))))
    assert torch.allclose(found, expected, atol=LAYER)


def test_norms_without_batch_statistics_stay_in_frozen_stages():
    model = classification_body("resnet14_narrow", norm_layer("gn:groups=8"), 4)
    assert all(layer.num_groups == 8 for _, layer in norm_modules(model))


@pytest.mark.parametrize("freeze_at", [-1, 5])
def test_more_parts_than_there_are(freeze_at):
    told = f"between 0 and 4, for the parts stem, stage1, stage2, stage3 of .* got {freeze_at}"
    with pytest.raises(ValueError, match=told):
        classification_body("resnet14_narrow", norm_layer("gn"), freeze_at)
