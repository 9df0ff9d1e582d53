"""Convolutions over time and space, the shortcut of a block, and the first weights."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping

from torch import nn

from groupnorm.layers import NormLayer, conv_layer
from groupnorm.models.places import norm_of_place, refuse_normalizer_free
from groupnorm.models.video.architectures import VIDEO_MODELS
from groupnorm.spec import NormSpec

Sizes = tuple[int, int, int]
"""Along (T, H, W)."""
NormLike = str | NormSpec | NormLayer

relu = functools.partial(nn.ReLU, inplace=True)


def norms_of_places(
    name: str, norm: NormLike, norms: Mapping[str, NormLike] | None
) -> list[NormLayer]:
    """The norm of every place of a network for video, in their order: the one given, or `norm`.

    Raises:
        ValueError: a place that the network does not have; `none+nf`.
    """
    placed = list(norm_of_place(norm, norms, VIDEO_MODELS[name].places, name).values())
    for layer in placed:
        refuse_normalizer_free(layer, name)
    return placed


def conv3d(
    norm: NormLayer,
    in_channels: int,
    out_channels: int,
    kernel_size: Sizes,
    stride: Sizes = (1, 1, 1),
) -> nn.Module:
    """A convolution whose zero padding keeps T, H and W, divided by the stride and rounded up.

    It is weight-standardized where the norm's spec says so, and has a bias only where no norm
    follows.

    Args:
        kernel_size: odd numbers.
    """
    return conv_layer(norm, dims=3)(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=tuple(size // 2 for size in kernel_size),
        bias=not norm.spec.normalizes,
    )


def shortcut(norm: NormLayer, in_channels: int, out_channels: int, stride: Sizes) -> nn.Module:
    """A 1x1x1 convolution and a norm without activation."""
    conv = conv3d(norm, in_channels, out_channels, (1, 1, 1), stride)
    return nn.Sequential(conv, norm(out_channels, apply_act=False))


def initialize(model: nn.Module, last_norms: Iterable[nn.Module]) -> None:
    """He normal (fan-out) in convolutions, N(0, 0.01) in the linear layer, zero biases.

    Args:
        last_norms: of the residual blocks, whose gamma becomes 0 where it is learned.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    for norm in last_norms:
        gamma = getattr(norm, "weight", None)
        if isinstance(gamma, nn.Parameter):  # a frozen one stays
            nn.init.zeros_(gamma)
