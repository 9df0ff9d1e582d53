"""FLOPs by hand, and the same with and without memory."""

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from groupnorm.cost import count_flops
from groupnorm.models import build_model


def test_a_convolution_and_a_matrix_product_by_hand():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 5))
    flops = count_flops(model, torch.randn(2, 3, 8, 8))
    conv, linear = 2 * 2 * 8 * 8 * 8 * 3 * 9, 2 * 2 * 512 * 5
    assert flops.forward == conv + linear
    # Backward: the weight's gradient of both, the input's of the second alone.
    assert flops.training == flops.forward + conv + 2 * linear


def test_resnet50_has_the_published_count_without_memory():
    # 4.09 G multiply-adds at 224 x 224: torchvision's table of ResNet-50.
    with FakeTensorMode():
        model = build_model("resnet50", norm="gn", num_classes=1000)
        flops = count_flops(model, torch.randn(2, 3, 224, 224))
    assert abs(flops.forward / 2 / 2 - 4.09e9) < 0.01e9
    assert 2.9 < flops.training / flops.forward < 3


def test_norms_are_not_counted():
    images = torch.randn(2, 3, 32, 32)
    counts = {
        norm: count_flops(build_model("resnet8", norm=norm, num_classes=10), images)
        for norm in ("gn", "bn", "none", "gn+ws")
    }
    assert len(set(counts.values())) == 1
