"""A convolution with its norm and activation, as the pyramid and the heads are made of."""

from __future__ import annotations

import functools
from collections.abc import Callable

from torch import nn

from groupnorm.layers import NormLayer, conv_layer, norm_and_activation

relu = functools.partial(nn.ReLU, inplace=True)


def conv_norm(
    norm: NormLayer,
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    activation: Callable[[], nn.Module] | None = relu,
) -> nn.Sequential:
    """A convolution that keeps the maps' size, its norm, and its activation.

    The keys are those of torchvision's `Conv2dNormActivation`: "0" the convolution, "1" the norm.
    The convolution is weight-standardized where the norm's spec says so, and has a bias, from 0,
    only where no norm follows. A norm that brings its own activation takes the place of both; where
    there is to be none, it leaves it out.

    Args:
        activation: makes the module after the norm; None for none.
    """
    normalizes = norm.spec.normalizes
    conv = conv_layer(norm)(
        in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=not normalizes
    )
    if not normalizes:
        nn.init.zeros_(conv.bias)
    if activation is None:
        follows: list[nn.Module] = [norm(out_channels, apply_act=False)] if normalizes else []
    elif normalizes:
        follows = list(norm_and_activation(norm, out_channels, activation))
    else:
        follows = [activation()]
    return nn.Sequential(conv, *follows)
