"""The CIFAR-type ResNet: published parameter counts, initialization, shapes, both shortcuts."""

import pytest
import torch
from torch import nn

from groupnorm.layers import norm_layer
from groupnorm.models import ResNetCifar, build_model, count_parameters
from groupnorm.models.classification.resnet_cifar import BasicBlock, SubsampleAndPad
from groupnorm.spec import KINDS
from tests.tolerances import SAMPLED


@pytest.mark.parametrize(
    ("depth", "shortcut", "parameters"),
    [
        (20, "A", 269_722),
        (56, "A", 853_018),  # He et al. 2016, Table 6: 0.85M
        (56, "B", 855_770),
        (110, "A", 1_727_962),  # 1.7M
    ],
)
def test_parameter_counts_with_batch_norm(depth, shortcut, parameters):
    assert count_parameters(ResNetCifar(depth, norm="bn", shortcut=shortcut)) == parameters


@pytest.mark.parametrize("depth", [8, 14, 20, 32, 56, 110])
def test_depth_is_the_number_of_weighted_layers(depth):
    model = ResNetCifar(depth, norm="gn")
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth


@pytest.mark.parametrize("depth", [-4, 2, 9, 18, 51])
def test_other_depths_raise(depth):
    with pytest.raises(ValueError, match=f"6n \\+ 2.*got {depth}"):
        ResNetCifar(depth, norm="gn")


@pytest.mark.parametrize("norm", ["gn:size=4", "gn+ws", "brn+ws", "none+nf", *KINDS])
@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_shapes_and_gradients_for_every_norm(norm, shortcut):
    torch.manual_seed(0)
    model = build_model(
        "resnet8", norm=norm, num_classes=7, in_channels=1, width=0.5, shortcut=shortcut
    )
    logits = model(torch.randn(4, 1, 13, 10))
    assert logits.shape == (4, 7)
    logits.backward(torch.randn(4, 7))
    assert model.linear.weight.grad is not None
    assert model.linear.weight.grad.abs().max() > 0


def test_gamma_is_zero_on_the_last_norm_of_each_block_only():
    model = ResNetCifar(14, norm="gn", shortcut="B")
    for block in (m for m in model.modules() if isinstance(m, BasicBlock)):
        assert torch.equal(block.norm2.weight, torch.zeros_like(block.norm2.weight))
        assert torch.equal(block.norm1.weight, torch.ones_like(block.norm1.weight))
        if isinstance(block.shortcut, nn.Sequential):
            assert torch.equal(block.shortcut[1].weight, torch.ones_like(block.shortcut[1].weight))
    assert torch.equal(model.norm1.weight, torch.ones_like(model.norm1.weight))


@pytest.mark.parametrize("norm", ["gn", "brn", "ln2d", "frn", "evonorm_s0"])
def test_every_block_starts_as_its_shortcut(norm):
    torch.manual_seed(1)
    block = ResNetCifar(8, norm=norm).stages[1][0]
    x = torch.randn(2, 16, 8, 8).relu()
    assert torch.equal(block(x), block.shortcut(x))


def test_a_frozen_gamma_is_not_zeroed():
    """It would stay 0 for ever."""
    norm2 = ResNetCifar(8, norm="frozenbn").stages[0][0].norm2
    assert torch.equal(norm2.weight, torch.ones(16))


def test_he_initialization():
    torch.manual_seed(0)
    weight = ResNetCifar(8, norm="bn").stages[2][0].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=SAMPLED)


def test_norms_start_from_the_same_weights():
    states = []
    for norm in ("bn", "gn:groups=8", "ln"):
        torch.manual_seed(3)
        states.append(ResNetCifar(8, norm=norm).state_dict())
    for state in states[1:]:
        assert torch.equal(state["stages.1.0.conv1.weight"], states[0]["stages.1.0.conv1.weight"])
        assert torch.equal(state["linear.weight"], states[0]["linear.weight"])


def test_option_a_subsamples_and_pads_with_zeros():
    x = torch.randn(2, 3, 5, 4)
    y = SubsampleAndPad(2, 3)(x)
    assert y.shape == (2, 6, 3, 2)
    assert torch.equal(y[:, 1:4], x[:, :, ::2, ::2])
    assert y[:, :1].abs().max() == 0
    assert y[:, 4:].abs().max() == 0


def test_only_models_without_norm_have_convolution_biases():
    assert ResNetCifar(8, norm="gn").conv1.bias is None
    assert ResNetCifar(8, norm="none").conv1.bias is not None


def test_a_factory_carries_the_batch_per_worker_into_the_model():
    model = ResNetCifar(8, norm=norm_layer("bn", batch_per_worker=4))
    with pytest.raises(ValueError, match="6"):
        model(torch.randn(6, 3, 8, 8))


def test_too_narrow_width_raises():
    with pytest.raises(ValueError, match=r"0\.01"):
        ResNetCifar(8, width=0.01)


@pytest.mark.parametrize("zero_gamma", [True, False])
def test_zero_gamma(zero_gamma):
    model = build_model("resnet8", norm="gn", num_classes=3, zero_gamma=zero_gamma)
    blocks = [module for module in model.modules() if isinstance(module, BasicBlock)]
    assert len(blocks) == 3
    for block in blocks:
        assert (block.norm2.weight == (0 if zero_gamma else 1)).all()
        assert (block.norm1.weight == 1).all()
