"""The ImageNet ResNets against torchvision's: parameters, state dicts, values, gradients."""

import pytest
import torch
import torchvision
from torch import nn

from groupnorm.layers import norm_layer
from groupnorm.models import build_model, count_parameters, imagenet_resnet
from groupnorm.models.classification.resnet_imagenet import BasicBlock, Bottleneck
from groupnorm.models.classification.widths import imagenet_widths
from groupnorm.spec import KINDS
from tests.tolerances import SAMPLED_FEW, WHOLE_NETWORK_64

PUBLISHED = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032, 101: 44_549_160}
"""Parameters, as torchvision's weights list them."""


def theirs(depth, **options):
    return getattr(torchvision.models, f"resnet{depth}")(**options)


def blocks(model):
    return [m for m in model.modules() if isinstance(m, BasicBlock | Bottleneck)]


def randomized(model):
    """The model in float64 with norms that do something: gammas from 1/2 to 3/2, betas."""
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            nn.init.uniform_(parameter, *((0.5, 1.5) if name.endswith("weight") else (-0.5, 0.5)))
    return model.double()


@pytest.mark.parametrize("depth", PUBLISHED)
def test_parameters_and_keys_are_torchvisions(depth):
    with torch.device("meta"):
        model, reference = imagenet_resnet(depth, norm="bn"), theirs(depth)
    assert count_parameters(model) == PUBLISHED[depth]
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    assert shapes == {key: value.shape for key, value in reference.state_dict().items()}


@pytest.mark.parametrize("depth", [18, 50])
def test_equals_torchvision_with_the_same_weights(depth):
    """In training, with gradients, from their state dict; in evaluation, into theirs."""
    reference = randomized(theirs(depth, num_classes=5))
    model = imagenet_resnet(depth, norm="bn", num_classes=5).double()
    model.load_state_dict(reference.state_dict())
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    cotangent = torch.randn(2, 5, dtype=torch.float64)
    found = []
    for network in (model, reference):
        image = x.clone().requires_grad_()
        logits = network(image)
        parameters = dict(network.named_parameters())
        gradients = torch.autograd.grad(logits, [image, *parameters.values()], cotangent)
        found.append([logits, dict(zip(["x", *parameters], gradients, strict=True))])
    torch.testing.assert_close(found[0], found[1], **WHOLE_NETWORK_64)

    back = theirs(depth, num_classes=5).double()
    back.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), back.eval()(x))
        torch.testing.assert_close(back(x), reference.eval()(x))  # the running statistics


@pytest.mark.parametrize("norm", ["gn:size=16", "gn+ws", "brn+ws", "none+ws", *KINDS])
def test_shapes_and_gradients_for_every_norm(norm):
    model = imagenet_resnet(18, norm=norm, num_classes=7, in_channels=1)
    logits = model(torch.randn(2, 1, 64, 45))
    assert logits.shape == (2, 7)
    logits.backward(torch.randn(2, 7))
    for layer in (model.conv1, model.fc):
        assert layer.weight.grad is not None
        assert layer.weight.grad.abs().max() > 0


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
@pytest.mark.parametrize("norm", KINDS)
def test_every_block_starts_as_its_shortcut(norm, block, stride):
    module = block(8, 8, stride, nn.Identity(), norm_layer=norm)
    x = torch.randn(2, 8, 6, 5)
    branch = module.last_norm()
    assert module(x).shape == (2, 8 * block.expansion, *((6, 5) if stride == 1 else (3, 3)))
    module.eval()  # in training batch renormalization changes from one call to the next
    if isinstance(getattr(branch, "weight", None), nn.Parameter):
        nn.init.zeros_(branch.weight)
        assert torch.equal(module(x), module.downsample(x).relu())


@pytest.mark.parametrize("depth", [18, 50])
def test_gamma_is_zero_on_the_last_norm_of_each_block_only(depth):
    model = imagenet_resnet(depth, norm="gn", num_classes=2)
    last = {id(block.last_norm()) for block in blocks(model)}
    assert len(last) == sum({18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}[depth])
    norms = [m for m in model.modules() if isinstance(m, nn.GroupNorm)]
    assert len(norms) == len([m for m in model.modules() if isinstance(m, nn.Conv2d)])
    for norm in norms:
        assert torch.equal(norm.weight, torch.full_like(norm.weight, id(norm) not in last))
        assert not norm.bias.any()
    names = {name for name, m in model.named_modules() if id(m) in last}
    assert {name[-3:] for name in names} == {"bn2" if depth == 18 else "bn3"}


def test_gamma_is_one_everywhere_where_it_is_asked_for():
    model = build_model("resnet18", norm="gn", num_classes=2, zero_gamma=False)
    assert all((m.weight == 1).all() for m in model.modules() if isinstance(m, nn.GroupNorm))


def test_a_frozen_gamma_is_not_zeroed():
    """It would stay 0 for ever."""
    model = imagenet_resnet(18, norm="frozenbn", num_classes=2)
    assert torch.equal(model.layer1[0].bn2.weight, torch.ones(64))


def test_the_initialization_is_the_papers():
    model = imagenet_resnet(18, norm="gn", num_classes=200)
    for conv, fan_out in ((model.conv1, 64 * 49), (model.layer3[1].conv1, 256 * 9)):
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=SAMPLED_FEW)
    assert model.fc.weight.std().item() == pytest.approx(0.01, rel=SAMPLED_FEW)
    assert not model.fc.bias.any()


def test_the_stride_is_on_the_3x3():
    with torch.device("meta"):
        model = imagenet_resnet(50, norm="gn")
    strided = {name for name, m in model.named_modules() if getattr(m, "stride", 1) == (2, 2)}
    transitions = {f"layer{i}.0.{conv}" for i in (2, 3, 4) for conv in ("conv2", "downsample.0")}
    assert strided == {"conv1", *transitions}


def test_weight_standardization_and_biases_reach_every_convolution():
    for norm, standardized, bias in (("gn+ws", True, False), ("none", False, True)):
        model = imagenet_resnet(50, norm=norm, num_classes=2)
        convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        assert len(convolutions) == 53
        for conv in convolutions:
            assert hasattr(conv, "standardized_weight") is standardized
            assert (conv.bias is not None) is bias
            assert conv.bias is None or not conv.bias.any()


def test_norms_start_from_the_same_weights():
    states = []
    for norm in ("bn", "ln"):
        torch.manual_seed(3)
        states.append(imagenet_resnet(18, norm=norm, num_classes=2).state_dict())
    for key in ("conv1.weight", "layer4.1.conv2.weight", "fc.weight"):
        assert torch.equal(states[0][key], states[1][key])


def test_widths_are_those_of_the_norms():
    for depth in (18, 50):
        with torch.device("meta"):
            model = imagenet_resnet(depth, norm="bn")
        found = {m.num_features for m in model.modules() if hasattr(m, "running_mean")}
        assert found == set(imagenet_widths(depth))


def test_a_factory_carries_the_batch_per_worker_into_the_model():
    model = imagenet_resnet(18, norm=norm_layer("bn", batch_per_worker=4), num_classes=2)
    with pytest.raises(ValueError, match="6"):
        model(torch.randn(6, 3, 8, 8))


def test_what_cannot_be_built_raises():
    with pytest.raises(ValueError, match="depth 18, 34, 50, 101, got 20"):
        imagenet_resnet(20)
    with pytest.raises(ValueError, match=r"none\+nf.*blocks of another form"):
        imagenet_resnet(18, norm="none+nf")
    with pytest.raises(ValueError, match=r"gn:affine=false.*torchvision"):
        imagenet_resnet(18, norm="gn:affine=false")
