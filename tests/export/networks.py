"""Small networks to export."""

import torch
from torch import nn

from groupnorm import GroupNorm
from groupnorm.export.forms import PooledGroupNorm
from groupnorm.layers import WSConv2d


def convolutional(groups=8, channels=16, *, offset=0.0, eps=1e-5, activation=None):
    """Two convolutions with group norm, of 3 channels; an offset goes into the first norm."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1),
        GroupNorm(groups, channels, eps),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1),
        GroupNorm(groups, channels, eps, activation=activation),
    )
    with torch.no_grad():
        network[0].bias += offset
        for norm in (network[1], network[4]):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_()
    return network.eval()


def standardized():
    """A convolution with standardized weights, and its norm."""
    torch.manual_seed(0)
    return nn.Sequential(WSConv2d(3, 16, 3), GroupNorm(4, 16), nn.SiLU()).eval()


def norm_of(groups, channels, form=PooledGroupNorm, **options):
    """A norm in a form, with random weights."""
    norm = form(groups, channels, **options).eval()
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_()
    return norm


def form_norm(form=PooledGroupNorm, **options):
    """One of 4 groups of 16 channels, always the same."""
    torch.manual_seed(0)
    return norm_of(4, 16, form, **options)


def images(*shape, seed=0):
    """Normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
