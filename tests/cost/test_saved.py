"""Bytes saved for the backward pass: by hand, and the same with and without memory."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from groupnorm.cost import bytes_saved
from groupnorm.layers import GroupNorm
from groupnorm.models import build_model
from tests.tolerances import ONE_PERCENT

NORMS = ["gn", "bn", "in", "ln2d", "brn", "frn", "evonorm_s0", "frozenbn", "gn+ws", "none"]


def model_and_images(norm, batch=4):
    model = build_model("resnet8", norm=norm, num_classes=10)
    return model, torch.randn(batch, 3, 32, 32)


def test_a_chain_by_hand():
    images = torch.randn(2, 3, 8, 8)
    conv, norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), GroupNorm(4, 8)
    maps = 2 * 8 * 8 * 8 * 4
    # A convolution keeps its input, which is the batch, and its weight: neither is counted.
    assert bytes_saved(conv, images) == 0
    # Group norm keeps its input, and three statistics of 2 x 4 groups.
    assert bytes_saved(nn.Sequential(conv, norm), images) == maps + 3 * 2 * 4 * 4
    # ReLU keeps its output, whether or not the convolution after it keeps it too.
    both = nn.Sequential(conv, norm, nn.ReLU())
    assert bytes_saved(both, images) == 2 * maps + 96
    assert bytes_saved(nn.Sequential(*both, nn.Conv2d(8, 3, 1)), images) == 2 * maps + 96


def test_a_fused_activation_keeps_one_tensor():
    conv, images = nn.Conv2d(3, 8, 1), torch.randn(2, 3, 8, 8)
    fused = nn.Sequential(conv, GroupNorm(4, 8, activation="silu"))
    apart = nn.Sequential(conv, GroupNorm(4, 8), nn.SiLU())
    assert bytes_saved(apart, images) - bytes_saved(fused, images) == 2 * 8 * 8 * 8 * 4


@pytest.mark.parametrize("norm", NORMS)
def test_without_memory_it_is_the_same_number(norm):
    real = bytes_saved(*model_and_images(norm))
    with FakeTensorMode():
        assert bytes_saved(*model_and_images(norm)) == real
    with torch.device("meta"):
        meta = bytes_saved(*model_and_images(norm))
    if norm in ("bn", "brn"):  # goes another way there, which keeps running and batch statistics
        assert 0 <= meta - real < ONE_PERCENT * real
    elif norm in ("gn", "in", "gn+ws"):  # PyTorch's operator, which keeps two of three statistics
        assert 0 <= real - meta < ONE_PERCENT * real
    else:
        assert meta == real


def test_mixed_precision_keeps_half():
    model, images = model_and_images("gn", batch=16)
    whole = bytes_saved(model, images)
    with torch.autocast("cpu", torch.bfloat16):
        half = bytes_saved(model, images)
    assert 0.4 * whole < half < 0.7 * whole
