"""Published checkpoints: files made in their formats, and what the errors say."""

import re

import pytest
import timm
import torch
import torchvision
from torch import nn

from groupnorm.conversion import load_published
from groupnorm.models import build_model
from tests.tolerances import WHOLE_NETWORK_64

CLASSES = 4


@pytest.fixture(scope="module")
def reference():
    """timm's resnet50_gn, whose every parameter does something."""
    torch.manual_seed(0)
    model = timm.create_model("resnet50_gn", num_classes=CLASSES)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            nn.init.uniform_(parameter, *((0.5, 1.5) if name.endswith("weight") else (-0.5, 0.5)))
    return model.eval()


def authors_format(state, norm="gn"):
    """What ImageNet-ResNet-PyTorch/main.py of GroupNorm-reproduce saves, with either name."""
    renamed = {
        re.sub(r"bn(\d)", rf"{norm}\1", f"module.{key}"): value for key, value in state.items()
    }
    names = {f"module.{norm}1.weight", f"module.layer1.0.{norm}2.bias", "module.fc.bias"}
    assert names <= renamed.keys()
    assert "module.layer2.0.downsample.1.weight" in renamed
    return {
        "epoch": 100,
        "state_dict": renamed,
        "best_acc1": torch.tensor(75.8),
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4, "params": [0]}]},
    }


def ours(norm="gn", classes=CLASSES):
    return build_model("resnet50", norm=norm, num_classes=classes)


@pytest.mark.parametrize("layout", ["timm", "author"])
def test_published_formats_load(tmp_path, reference, layout):
    state = reference.state_dict()
    torch.save(state if layout == "timm" else authors_format(state), tmp_path / "model.pth")
    model = ours()
    assert load_published(model, tmp_path / "model.pth") == layout
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        y, expected = model.double().eval()(x.double()), reference.double()(x.double())
    reference.float()
    torch.testing.assert_close(y, expected, **WHOLE_NETWORK_64)
    assert expected.std() > 0.01


@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_the_authors_files_are_told_by_what_is_left_of_their_marks(tmp_path, norm):
    """All of the file; no prefix, as on one device; the state dict alone, with either."""
    model, other = (build_model("resnet18", norm="gn", num_classes=2) for _ in range(2))
    nn.init.uniform_(other.layer4[1].bn2.weight)
    whole = authors_format(other.state_dict(), norm)
    prefixed = whole["state_dict"]
    bare = {key.removeprefix("module."): value for key, value in prefixed.items()}
    for content in (whole, {**whole, "state_dict": bare}, prefixed, bare):
        nn.init.zeros_(model.layer4[1].bn2.weight)
        torch.save(content, tmp_path / "model.pth")
        told = content is not bare or norm == "gn"
        assert load_published(model, tmp_path / "model.pth") == ("author" if told else "timm")
        assert torch.equal(model.layer4[1].bn2.weight, other.layer4[1].bn2.weight)


def test_what_timms_training_script_saves_is_timms(tmp_path):
    model = build_model("resnet18", norm="gn", num_classes=2)
    content = {"epoch": 3, "arch": "resnet50_gn", "state_dict": model.state_dict()}
    torch.save(content, tmp_path / "model.pth")
    assert load_published(model, tmp_path / "model.pth") == "timm"


def test_keys_that_do_not_fit_are_named_and_nothing_changes(tmp_path, reference):
    state = dict(reference.state_dict())
    del state["layer1.0.bn1.weight"]
    state["layer1.0.bn1.running_mean"] = torch.zeros(64)
    state["fc.weight"] = torch.zeros(9, 2048)
    torch.save(state, tmp_path / "model.pth")
    model = ours()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"model\.pth does not fit") as error:
        load_published(model, tmp_path / "model.pth")
    assert "missing: layer1.0.bn1.weight" in str(error.value)
    assert "unexpected: layer1.0.bn1.running_mean" in str(error.value)
    assert "of another shape: fc.weight (9, 2048) instead of (4, 2048)" in str(error.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("norm", ["gn:groups=16", "gn+ws", "ln", "ln2d"])
def test_models_with_the_same_keys_but_another_norm_are_refused(tmp_path, norm):
    model = build_model("resnet18", norm=norm, num_classes=2)
    with pytest.raises(ValueError, match=f"the model has {re.escape(norm)}"):
        load_published(model, tmp_path / "none")


def test_other_models_are_refused(tmp_path):
    with torch.device("meta"):
        model = torchvision.models.resnet18()
    with pytest.raises(ValueError, match="go into an ImageNet ResNet of this package"):
        load_published(model, tmp_path / "none")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(2)], "no state dict but list"),
        ({}, "no state dict but dict"),
        ({"epoch": 3, "fc.bias": torch.zeros(2)}, "no tensors are epoch"),
        (re.compile("x"), "cannot be read as weights"),
    ],
)
def test_files_of_another_kind(tmp_path, content, message):
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=message) as error:
        load_published(build_model("resnet18", norm="gn", num_classes=2), tmp_path / "model.pth")
    assert "weights_only" not in str(error.value)  # no advice of PyTorch's to run what is inside


def test_files_that_are_missing_or_no_checkpoints(tmp_path):
    model = build_model("resnet18", norm="gn", num_classes=2)
    with pytest.raises(FileNotFoundError):
        load_published(model, tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(ValueError, match=r"cannot be read as weights: it was not .*perhaps code$"):
        load_published(model, tmp_path / "text.pth")
