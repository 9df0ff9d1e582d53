"""The feature pyramid against torchvision's."""

import pytest
import torch
from torch import nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from groupnorm.layers import GroupNorm, norm_layer
from groupnorm.models.detection.fpn import NormedPyramid
from tests.tolerances import LAYER, SAMPLED


@pytest.mark.parametrize("norm", ["gn:groups=4", "none"])
def test_the_maps_are_torchvisions(norm):
    makes = None if norm == "none" else lambda c: nn.GroupNorm(4, c)
    theirs = FeaturePyramidNetwork([6, 12, 24], 16, LastLevelMaxPool(), norm_layer=makes)
    ours = NormedPyramid([6, 12, 24], 16, norm_layer(norm), LastLevelMaxPool())
    ours.load_state_dict(theirs.state_dict())
    assert [*ours.state_dict()] == [*theirs.state_dict()]
    maps = {str(n): torch.randn(2, 6 << n, 16 >> n, 24 >> n) for n in range(3)}
    found, expected = ours(dict(maps)), theirs(dict(maps))
    assert [*found] == [*expected] == ["0", "1", "2", "pool"]
    assert all(torch.allclose(found[name], expected[name], atol=LAYER) for name in found)


def test_every_convolution_has_a_norm_and_no_relu_follows():
    fpn = NormedPyramid([6, 12, 24], 16, norm_layer("gn:groups=4"), None)
    kinds = [type(module) for module in fpn.modules()]
    assert kinds.count(nn.Conv2d) == kinds.count(GroupNorm) == 6
    assert nn.ReLU not in kinds
    assert all(conv.bias is None for conv in fpn.modules() if isinstance(conv, nn.Conv2d))


def test_weights_start_as_caffe2s_xavier_fill():
    torch.manual_seed(0)
    fpn = NormedPyramid([512], 256, norm_layer("gn+ws"), None)
    for layer, fan_in in ((fpn.inner_blocks[0][0], 512), (fpn.layer_blocks[0][0], 9 * 256)):
        assert layer.weight.var().item() * fan_in == pytest.approx(1, rel=SAMPLED)
        assert layer.weight.abs().max() <= (3 / fan_in) ** 0.5
