"""The narrow MobileNet."""

import pytest
import torch
from torch import nn

from groupnorm.cost import count_flops
from groupnorm.layers import WSConv2d, norm_layer, norm_modules
from groupnorm.models import build_model, count_parameters
from groupnorm.models.classification.mobilenet_narrow import InvertedResidual, NarrowMobileNet
from groupnorm.spec import KINDS
from tests.tolerances import SAMPLED, SAMPLED_THOUSAND


def test_widths_and_strides():
    with torch.device("meta"):
        model = NarrowMobileNet(num_classes=7)
        maps = [model.act1(model.norm1(model.conv1(torch.empty(2, 3, 32, 32))))]
        for stage in model.stages:
            maps.append(stage(maps[-1]))
        assert model(torch.empty(2, 3, 32, 32)).shape == (2, 7)
    shapes = [(m.shape[1], m.shape[2]) for m in maps]
    assert shapes == [(16, 32), (16, 32), (24, 16), (32, 8), (64, 4)]
    assert [len(stage) for stage in model.stages] == [1, 2, 3, 3]


def test_parameters_and_arithmetic():
    """About the size of ResNet-20 and a fourth of its arithmetic."""
    with torch.device("meta"):
        model = NarrowMobileNet(norm="bn")
        flops = count_flops(model, torch.empty(2, 3, 32, 32)).forward / 2
    assert count_parameters(model) == 203_658
    assert flops == 2 * 10_959_360


def test_every_block_has_a_depthwise_convolution():
    with torch.device("meta"):
        model = NarrowMobileNet()
    blocks = [module for module in model.modules() if isinstance(module, InvertedResidual)]
    assert len(blocks) == 9
    for block in blocks:
        conv = block.conv2
        assert conv.kernel_size == (3, 3)
        assert conv.groups == conv.in_channels == conv.out_channels
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == 29
    assert len(norm_modules(model)) == 28


def test_bottlenecks_are_linear():
    """What follows a block's last norm is not cut off at 0, and what goes before it at 6."""
    block = NarrowMobileNet(zero_gamma=False).stages[2][0]
    inside = []
    block.conv3.register_forward_hook(lambda _m, given, _o: inside.append(given[0]))
    with torch.no_grad():
        block.norm2.weight.fill_(10.0)
    assert block(torch.randn(2, 24, 8, 8)).min() < 0
    assert (inside[0].min(), inside[0].max()) == (0, 6)


@pytest.mark.parametrize("norm", ["gn:size=8", "gn+ws", "brn+ws", *KINDS])
def test_shapes_and_gradients_for_every_norm(norm):
    model = build_model(
        "mobilenet_narrow", norm=norm, num_classes=7, in_channels=1, zero_gamma=False
    )
    logits = model(torch.randn(4, 1, 13, 10))
    assert logits.shape == (4, 7)
    logits.backward(torch.randn(4, 7))
    for layer in (model.conv1, model.stages[1][1].conv2, model.linear):
        assert layer.weight.grad.abs().max() > 0


@pytest.mark.parametrize("zero_gamma", [True, False])
def test_blocks_with_a_shortcut_start_as_it(zero_gamma):
    model = NarrowMobileNet(zero_gamma=zero_gamma)
    x = torch.randn(2, 24, 8, 8)
    assert torch.equal(model.stages[1][1](x), x) == zero_gamma
    first = model.stages[1][0]
    assert not first.has_shortcut
    assert (first.norm3.weight == 1).all()


def test_a_frozen_gamma_is_not_zeroed():
    assert (NarrowMobileNet(norm="frozenbn").stages[1][1].norm3.weight == 1).all()


def test_first_weights():
    model = NarrowMobileNet(norm="none")
    block = model.stages[3][1]
    depthwise, wide = block.conv2.weight, block.expand[0].weight
    assert depthwise.std().item() == pytest.approx((2 / 9) ** 0.5, rel=SAMPLED_THOUSAND)
    assert wide.std().item() == pytest.approx((2 / 384) ** 0.5, rel=SAMPLED)
    biases = [m.bias for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(biases) == 29
    assert all(bias.abs().max() == 0 for bias in biases)


def test_weights_are_standardized_where_the_norm_says():
    with torch.device("meta"):
        model = NarrowMobileNet(norm="gn+ws")
    assert sum(isinstance(module, WSConv2d) for module in model.modules()) == 28


def test_a_factory_carries_the_batch_per_worker_into_the_model():
    model = NarrowMobileNet(norm=norm_layer("bn", batch_per_worker=4))
    with pytest.raises(ValueError, match="6"):
        model(torch.randn(6, 3, 8, 8))


def test_normalizer_free_blocks_are_not_there():
    with pytest.raises(ValueError, match="blocks of another form than mobilenet_narrow has"):
        NarrowMobileNet(norm="none+nf")
