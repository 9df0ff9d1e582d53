"""Networks by name: a user's own function, torchvision's, timm's; what is wrong in words."""

import sys

import pytest
import timm
import torch
import torchvision
from torch import nn

from groupnorm.data.files.transforms import MEAN, STD
from groupnorm.run.conversion.network import build_network, current_folder_importable

OWN = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, width=4, bias=True, name="a"):
        super().__init__(nn.Conv2d(3, width, 1, bias=bias))
        self.name = name

    @staticmethod
    def wide():
        return Net(8)

def fails():
    raise KeyError("width")

def leaves():
    raise SystemExit("usage: train.py")

def text():
    return "no network"

ready = Net()
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The name of a module in the current folder."""
    (tmp_path / "own_networks.py").write_text(OWN)
    (tmp_path / "broken_networks.py").write_text("import torch\n\nx = 1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_networks", raising=False)
    return "own_networks"


def built(name, options=()):
    with current_folder_importable():
        return build_network(name, dict(options))


def made_again(network):
    names = {}
    with current_folder_importable():
        exec("\n".join(network.code), names)
    return names["model"]


def test_a_function_of_the_users_own_with_options(own):
    network = built(f"{own}:Net", {"width": "6", "bias": "False", "name": "5x"})
    assert network.model[0].weight.shape == (6, 3, 1, 1)
    assert (network.model[0].bias, network.model.name) == (None, "5x")
    assert network.origin == "Net of own_networks"
    assert network.code == (
        "from own_networks import Net",
        "model = Net(width=6, bias=False, name='5x')",
    )
    assert made_again(network).name == "5x"
    assert (network.size, network.mean, network.std) == (224, MEAN, STD)
    wide = built(f"{own}:Net.wide")
    assert made_again(wide)[0].weight.shape == wide.model[0].weight.shape == (8, 3, 1, 1)
    assert str(own) not in sys.path


def test_torchvisions_networks_are_made_without_weights(monkeypatch):
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: 1 / 0)
    with torch.device("meta"):
        for name in ("torchvision/resnet18", "resnet18"):
            network = build_network(name, {"num_classes": "3"})
            assert isinstance(network.model, torchvision.models.ResNet)
            assert network.model.fc.out_features == 3
            assert network.origin == "torchvision's resnet18"
        segmenter = build_network("deeplabv3_resnet50", {"num_classes": "2"})
        again = made_again(segmenter)
    assert network.code[1] == (
        'model = torchvision.models.get_model("resnet18", weights=None, num_classes=3)'
    )
    assert "weights=None, weights_backbone=None, num_classes=2" in segmenter.code[1]
    assert type(again) is type(segmenter.model)
    assert build_network("squeezenet1_0", {}).code[1].endswith('("squeezenet1_0", weights=None)')


def test_timms_networks_have_their_images():
    name = "vit_tiny_patch16_384"
    with torch.device("meta"):
        ours = build_network("timm/resnet18", {"num_classes": "3"})
        bare = build_network(name, {})
        again = made_again(bare)
    assert type(ours.model) is timm.models.ResNet
    assert ours.code == ("import timm", 'model = timm.create_model("resnet18", num_classes=3)')
    assert bare.origin == f"timm's {name}"
    assert type(again) is type(bare.model)
    assert (bare.size, bare.mean, bare.std) == (384, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet5o", {}, r"neither torchvision nor timm knows 'resnet5o' \(did you mean resnet50"),
        ("torchvision/resnet18d", {}, "torchvision does not know 'resnet18d' .*MODULE:FUNCTION"),
        ("timm/hf-hub:x/y", {}, "expected MODULE:FUNCTION"),
        ("keras/resnet50", {}, "expected MODULE:FUNCTION, torchvision/NAME"),
        ("resnet18", {"weights": "DEFAULT"}, "weights is no option: the weights are those of"),
        ("resnet18", {"classes": "3"}, r"fails with \(classes=3\): TypeError: .*'classes'"),
        ("resnet18", {"num classes": "3"}, "expected the name of an argument, got 'num classes'"),
        ("no_such_module:net", {}, "no_such_module cannot be imported: ModuleNotFound"),
        ("broken_networks:net", {}, r"ZeroDivisionError: .* \(broken_networks.py, line 3\)"),
        ("own_networks:Nett", {}, r"own_networks has no Nett \(did you mean Net\?\)"),
        ("own_networks:fails", {}, r"with \(\): KeyError: 'width' \(own_networks.py, line 14"),
        ("own_networks:leaves", {}, r"SystemExit: usage: train.py"),
        ("own_networks:text", {}, "makes a str; expected a torch.nn.Module"),
        ("own_networks:ready", {}, "is a Net; expected a function or a class that makes"),
        ("own_networks:", {}, "expected MODULE:FUNCTION, as my_models:small_resnet"),
    ],
)  # fmt: skip
def test_what_makes_no_network(own, name, options, message):
    with pytest.raises(ValueError, match=message):
        built(name, options)


def test_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"^timm is not installed: pip install timm$"):
        build_network("timm/resnet50", {})
    with pytest.raises(ValueError, match="timm is not installed, and torchvision does not know"):
        build_network("efficientnet_lite0", {})
    assert isinstance(build_network("squeezenet1_1", {}).model, nn.Module)
