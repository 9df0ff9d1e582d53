"""The narrow ResNet."""

import pytest
import torch
from torch import nn

from groupnorm.layers import WSConv2d, norm_modules
from groupnorm.models.classification.resnet_narrow import NarrowResNet
from tests.tolerances import SAMPLED, SAMPLED_THOUSAND


def test_depth_widths_and_strides():
    model = NarrowResNet(norm="gn", num_classes=7)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size[0] > 1]
    assert len(convolutions) + 1 == 14
    x = torch.randn(2, 3, 48, 48)
    maps = [model.relu(model.bn1(model.conv1(x)))]
    for stage in (model.layer1, model.layer2, model.layer3):
        maps.append(stage(maps[-1]))
    shapes = [(m.shape[1], m.shape[2]) for m in maps]
    assert shapes == [(32, 24), (32, 12), (64, 6), (128, 3)]
    assert model(x).shape == (2, 7)


@pytest.mark.parametrize("zero_gamma", [True, False])
def test_blocks_start_as_their_shortcuts(zero_gamma):
    model = NarrowResNet(norm="gn", zero_gamma=zero_gamma)
    block = model.layer2[0]
    x = torch.randn(2, 32, 8, 8)
    same = torch.equal(block(x), torch.relu(block.downsample(x)))
    assert same == zero_gamma


def test_first_weights():
    torch.manual_seed(0)
    model = NarrowResNet(norm="none")
    weight = model.layer3[1].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=SAMPLED)
    assert model.fc.weight.std().item() == pytest.approx(0.01, rel=SAMPLED_THOUSAND)
    biases = [m.bias for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(biases) == 17
    assert all(bias.abs().max() == 0 for bias in biases)


def test_every_convolution_has_its_norm():
    model = NarrowResNet(norm="gn+ws")
    standardized = [m for m in model.modules() if isinstance(m, WSConv2d)]
    assert len(norm_modules(model)) == len(standardized) == 16


def test_normalizer_free_blocks_are_not_there():
    with pytest.raises(ValueError, match="needs blocks of another form than resnet14_narrow has"):
        NarrowResNet(norm="none+nf")
