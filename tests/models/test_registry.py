"""Models by name."""

from functools import partial

import pytest
import torch

from groupnorm.models import (
    build_model,
    build_segmentation_model,
    build_video_model,
    channel_widths,
    check_model,
    check_segmentation_model,
    check_video_model,
    places_of,
    usual_images,
)
from groupnorm.models.segmentation.architectures import SEGMENTATION_MODELS
from groupnorm.models.video.architectures import VIDEO_MODELS


def test_depths_by_name():
    assert check_model("resnet8") == 8
    assert check_model("resnet110") == 110
    assert [check_model(f"resnet{d}") for d in (18, 34, 50, 101)] == [18, 34, 50, 101]
    assert check_model("vgg16") == 16
    assert check_model("resnet14_narrow") == 14
    assert check_model("preact_resnet20") == 20
    assert check_model("mobilenet_narrow") == 29
    assert check_model("unet_encoder") == 9


@pytest.mark.parametrize(
    "name", ["resnet26", "preact_resnet18", "resnet", "vgg19", "resnet20 ", "ResNet8"]
)
def test_unknown_names_list_the_known_ones(name):
    """Also depths of the form 6n + 2 that nobody has published."""
    with pytest.raises(ValueError, match=r"unknown model .*known: resnet8, .*resnet101.*vgg16"):
        check_model(name)
    with pytest.raises(ValueError, match="unknown model"):
        build_model(name, norm="gn", num_classes=10)


def test_resnet50_is_the_one_everybody_means():
    """50 is 6n + 2 as well."""
    with torch.device("meta"):
        model = build_model("resnet50", norm="gn", num_classes=10)
    assert model.fc.in_features == 2048


@pytest.mark.parametrize("name", ["resnet50", "vgg16", "mobilenet_narrow"])
def test_only_the_small_networks_have_a_width(name):
    for refused in (check_model, channel_widths):
        with pytest.raises(ValueError, match=rf"{name} has its published width; width=0\.5"):
            refused(name, 0.5)
    with pytest.raises(ValueError, match=f"{name} has its published width"):
        build_model(name, norm="gn", num_classes=10, width=2)


@pytest.mark.parametrize(
    ("name", "smallest"),
    [
        ("resnet8", 8),
        ("resnet50", 64),
        ("vgg16", 64),
        ("resnet14_narrow", 32),
        ("preact_resnet8", 8),
        ("mobilenet_narrow", 8),
        ("unet_encoder", 16),
    ],
)
def test_images_may_not_be_too_small(name, smallest):
    check_model(name, sizes=(smallest, 100))
    told = f"{name} takes images of {smallest} pixels at least, got {smallest - 1}"
    with pytest.raises(ValueError, match=told):
        check_model(name, sizes=(smallest - 1, 100))


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("resnet8", 0.5),
        ("resnet18", 1),
        ("vgg16", 1),
        ("resnet14_narrow", 1),
        ("preact_resnet8", 0.5),
        ("mobilenet_narrow", 1),
        ("unet_encoder", 1),
    ],
)
def test_widths_are_those_of_the_model(name, width):
    with torch.device("meta"):
        model = build_model(name, norm="bn", num_classes=3, width=width)
    found = {m.num_features for m in model.modules() if hasattr(m, "running_mean")}
    assert found == set(channel_widths(name, width))


def test_widths_without_a_factor():
    assert channel_widths("resnet8") == (16, 32, 64)
    assert channel_widths("resnet101") == (64, 128, 256, 512, 1024, 2048)


def test_options_reach_the_model():
    model = build_model("resnet14", norm="gn", num_classes=7, in_channels=1, shortcut="B")
    assert model.linear.out_features == 7
    assert model.conv1.in_channels == 1
    assert len(model.stages[0]) == 2
    model = build_model("preact_resnet8", norm="gn", num_classes=7, width=0.5, shortcut="B")
    assert (model.linear.in_features, model.linear.out_features) == (32, 7)
    assert isinstance(model.stages[1][0].shortcut, torch.nn.Conv2d)
    model = build_model(
        "mobilenet_narrow", norm="gn", num_classes=7, in_channels=1, zero_gamma=False
    )
    assert (model.conv1.in_channels, model.linear.out_features) == (1, 7)
    assert model.stages[1][1].norm3.weight.min() == 1
    with torch.device("meta"):
        model = build_model("resnet34", norm="gn", num_classes=7, in_channels=1)
        assert (model.conv1.in_channels, model.fc.out_features) == (1, 7)
        assert [len(getattr(model, f"layer{i}")) for i in (1, 2, 3, 4)] == [3, 4, 6, 3]
        model = build_model("vgg16", norm="gn", num_classes=7, in_channels=1)
        assert (model.features[0].in_channels, model.classifier[6].out_features) == (1, 7)


def test_usual_images():
    assert usual_images("resnet20").size == 32
    assert usual_images("vgg16") == usual_images("resnet50")
    assert usual_images("preact_resnet20") == usual_images("mobilenet_narrow")
    assert usual_images("mobilenet_narrow") == usual_images("resnet20")
    assert usual_images("resnet50").classes == 1000
    with pytest.raises(ValueError, match="unknown model"):
        usual_images("resnet9")


def test_networks_for_segmentation_by_name():
    for name, architecture in SEGMENTATION_MODELS.items():
        assert places_of(name) == architecture.places
        check_segmentation_model(name, architecture.places)
        side = architecture.multiple
        with torch.device("meta"):
            model = build_segmentation_model(name, norm="gn", num_classes=3, in_channels=2)
            assert model(torch.empty(1, 2, side, 2 * side)).shape == (1, 3, side, 2 * side)


def test_what_a_network_for_segmentation_is_not():
    with pytest.raises(ValueError, match="unet_narrow has no place 'stem'; its places: encoder, d"):
        check_segmentation_model("unet_narrow", ["stem"])
    for attempt in (check_segmentation_model, partial(build_segmentation_model, norm="gn",
                                                      num_classes=3)):  # fmt: skip
        with pytest.raises(ValueError, match="unknown network for segmentation 'resnet20'; known:"):
            attempt("resnet20")


def test_networks_for_video_by_name():
    with torch.device("meta"):
        models = {
            name: build_video_model(name, norm="gn", num_classes=3, in_channels=2)
            for name in VIDEO_MODELS
        }
    for name, model in models.items():
        architecture = VIDEO_MODELS[name]
        assert places_of(name) == architecture.places
        smallest = (architecture.fewest_frames, *[architecture.smallest_size] * 2)
        maps = []
        model.avgpool.register_forward_pre_hook(lambda _, inputs, maps=maps: maps.extend(inputs))
        assert model(torch.empty(1, 2, *smallest, device="meta")).shape == (1, 3)
        assert maps[0].shape[2:] == (1, 2, 2)


def test_what_a_network_for_video_does_not_take():
    check_video_model("i3d_resnet50", ["stem", "stage4"], frames=7, size=33)
    for named in ("resnet50", "i3d"):
        with pytest.raises(ValueError, match=f"unknown network for video '{named}'; known: i3d_re"):
            check_video_model(named)
        with pytest.raises(ValueError, match="unknown network for video"):
            build_video_model(named, norm="gn", num_classes=3)
    with pytest.raises(ValueError, match="i3d_narrow has no place 'stage4'; its places: stem, st"):
        check_video_model("i3d_narrow", ["stage4"])
    with pytest.raises(ValueError, match="i3d_resnet50 takes clips of 7 frames at least, got 6"):
        check_video_model("i3d_resnet50", frames=6)
    with pytest.raises(ValueError, match="i3d_narrow takes frames of 9 pixels at least, got 8"):
        check_video_model("i3d_narrow", size=8)
