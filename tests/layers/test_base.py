"""torch.fx takes every layer for one node, and so do the tools that trace with it."""

import copy
import pickle

import pytest
import timm
import torch
import torchvision
from timm.models._features import FeatureHookNet
from timm.models._features_fx import FeatureGraphNet
from torch import nn
from torch.fx import symbolic_trace
from torch.fx.experimental.optimization import fuse
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from groupnorm.conversion import WeightStandardization, standardize_convolutions
from groupnorm.layers import (
    GroupNorm,
    GroupNormAct,
    ScaledWSConv2d,
    WSConv1d,
    WSConv2d,
    WSConv3d,
    WSConvTranspose1d,
    WSConvTranspose2d,
    WSConvTranspose3d,
    norm_layer,
)
from groupnorm.models import build_model
from groupnorm.spec import KINDS
from tests.tolerances import LAYER, QUANTIZED

NORMS = {kind: lambda kind=kind: norm_layer(kind)(8) for kind in KINDS if kind != "none"}
WITH_ACTIVATION = {
    f"{kind}, elu": lambda kind=kind: norm_layer(kind)(8, act_layer=nn.ELU, drop_layer=nn.Identity)
    for kind in NORMS
}
CONVOLUTIONS = {
    kind.__name__: lambda kind=kind: kind(8, 8, 3)
    for kind in (
        WSConv1d, WSConv2d, WSConv3d, WSConvTranspose1d, WSConvTranspose2d, WSConvTranspose3d,
        ScaledWSConv2d,
    )
}  # fmt: skip
LAYERS = {
    **NORMS,
    **WITH_ACTIVATION,
    **CONVOLUTIONS,
    "GroupNormAct": lambda: GroupNormAct(2, 8),
    "parametrized": lambda: standardized(nn.Conv2d(8, 8, 3)),
}


def standardized(conv):
    standardize_convolutions(conv)
    return conv


def data_for(layer):
    dims = layer.weight.dim() - 2 if isinstance(layer, nn.modules.conv._ConvNd) else 2
    return torch.randn(4, 8, *[5] * dims)


def nodes(graph_module):
    return [node.target for node in graph_module.graph.nodes if node.op.startswith("call")]


def equal(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=LAYER, atol=LAYER)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_one_node(name, training):
    layer = LAYERS[name]()
    network = nn.Sequential(layer, nn.ReLU()).train(training)
    traced, twin, x = symbolic_trace(network), copy.deepcopy(network), data_for(layer)
    assert nodes(traced) == ["0", "1"]
    assert torch.equal(traced(x), twin(x))
    for key, value in twin.state_dict().items():
        assert torch.equal(traced.state_dict()[key], value), key


@pytest.mark.parametrize("norm", ["gn:groups=4+ws", "bn", "frn", "none+nf"])
def test_networks(norm):
    model = build_model("resnet8", norm=norm, num_classes=3, width=0.5)
    traced, x = symbolic_trace(model), torch.randn(2, 3, 8, 8)
    assert torch.equal(traced(x), model(x))
    equal(symbolic_trace(traced)(x), model(x))


def test_a_subclass_with_its_own_forward_is_one_node():
    class Doubled(GroupNorm):
        def forward(self, input):
            return super().forward(input) * 2

    network = nn.Sequential(Doubled(2, 8))
    traced, x = symbolic_trace(network), torch.randn(2, 8, 3, 3)
    assert nodes(traced) == ["0"]
    assert torch.equal(traced(x), network(x))


def test_hooks_run_once():
    network = nn.Sequential(GroupNorm(2, 8))
    network[0].register_forward_hook(lambda layer, inputs, output: output * 2)
    traced, x = symbolic_trace(network), torch.randn(2, 8, 3, 3)
    assert torch.equal(traced(x), network(x))


@pytest.mark.parametrize("name", [*LAYERS, "WeightStandardization"])
def test_classes_keep_their_module_and_copies_stay_leaves(name):
    layer = WeightStandardization() if name == "WeightStandardization" else LAYERS[name]()
    if name == "parametrized":
        pytest.skip("a class of PyTorch's")
    assert type(layer).__module__.startswith(("groupnorm.layers.", "groupnorm.conversion."))
    for twin in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert twin.__module__.startswith("torch.nn")


def test_torchvisions_feature_extraction():
    model = torchvision.models.resnet18(norm_layer=norm_layer("gn:groups=8+ws")).eval()
    names, _ = get_graph_node_names(model)
    assert "layer1.0.bn1" in names
    extractor = create_feature_extractor(model, ["layer1.0.bn1", "layer2.1.bn2", "fc"])
    seen = {}
    model.layer1[0].bn1.register_forward_hook(lambda *call: seen.update(norm=call[-1].clone()))
    x = torch.randn(1, 3, 32, 32)
    features = extractor(x)
    equal(features["fc"], model(x))
    equal(features["layer1.0.bn1"], seen["norm"].relu())  # the ReLU overwrites it
    assert features["layer2.1.bn2"].shape == (1, 128, 4, 4)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "resnetv2_18"])
def test_timms_feature_extraction(name):
    """Its features are what the hooks of its other feature extraction see."""
    model = timm.create_model(name, norm_layer=norm_layer("gn:groups=8")).eval()
    x = torch.randn(1, 3, 64, 64)
    by_hooks = FeatureHookNet(model, out_indices=(0, 1, 2, 3))(x)
    by_fx = FeatureGraphNet(model, out_indices=(0, 1, 2, 3))(x)
    assert len(by_fx) == 4
    for ours, theirs in zip(by_fx, by_hooks, strict=True):
        equal(ours, theirs)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("norm", ["gn:groups=4", "gn:groups=4+ws", "bn", "frn"])
def test_quantization(norm):
    """Before conversion the prepared network computes what it did; after it, nearly so."""
    quantize_fx = pytest.importorskip("torch.ao.quantization.quantize_fx")
    from torch.ao.quantization import get_default_qconfig_mapping

    model = build_model("resnet8", norm=norm, num_classes=3, width=0.5).eval()
    nn.init.normal_(model.linear.weight)
    x = torch.randn(4, 3, 8, 8)
    expected = model(x).detach()
    prepared = quantize_fx.prepare_fx(
        copy.deepcopy(model), get_default_qconfig_mapping("fbgemm"), (x,)
    )
    equal(prepared(x), expected)
    kinds = [type(module) for module in prepared.modules()]
    assert kinds.count(type(model.norm1)) == 7
    converted = quantize_fx.convert_fx(prepared)
    assert (converted(x) - expected).abs().max() < QUANTIZED * expected.abs().max()


def test_fuse_folds_pytorchs_batch_norm_and_keeps_ours():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), WSConv2d(8, 8, 3), norm_layer("bn")(8),
        nn.Conv2d(8, 8, 3), norm_layer("gn:groups=4")(8),
    ).eval()  # fmt: skip
    for norm in (network[1], network[3]):
        nn.init.uniform_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    fused, x = fuse(network), torch.randn(2, 3, 12, 12)
    assert nodes(fused) == ["0", "2", "3", "4", "5"]
    equal(fused(x), network(x))
