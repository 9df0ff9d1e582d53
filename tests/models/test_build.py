"""Models by name."""

import pytest

from groupnorm.models import build_model, channel_widths, check_model


def test_depths_by_name():
    assert check_model("resnet8") == 8
    assert check_model("resnet110") == 110


@pytest.mark.parametrize(
    "name", ["resnet50", "resnet18", "resnet", "vgg16", "resnet20 ", "ResNet8"]
)
def test_unknown_names_list_the_known_ones(name):
    """resnet50 would be 6n + 2, but everybody means another network by it."""
    with pytest.raises(ValueError, match=r"unknown model .*known: resnet8, resnet14"):
        check_model(name)
    with pytest.raises(ValueError, match="unknown model"):
        build_model(name, norm="gn", num_classes=10)


def test_widths_are_those_of_the_model():
    assert channel_widths("resnet8") == (16, 32, 64)
    model = build_model("resnet8", norm="bn", num_classes=3, width=0.5)
    found = {m.num_features for m in model.modules() if hasattr(m, "running_mean")}
    assert found == set(channel_widths("resnet8", 0.5))


def test_options_reach_the_model():
    model = build_model("resnet14", norm="gn", num_classes=7, in_channels=1, shortcut="B")
    assert model.linear.out_features == 7
    assert model.conv1.in_channels == 1
    assert len(model.stages[0]) == 2
