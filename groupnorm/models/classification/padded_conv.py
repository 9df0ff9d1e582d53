"""A convolution whose zero padding keeps the size, with a bias where nothing normalizes."""

from __future__ import annotations

from torch import nn

from groupnorm.layers import NormLayer, conv_layer


def padded_conv(
    norm: NormLayer,
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    groups: int = 1,
) -> nn.Module:
    """(N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)).

    Args:
        norm: that follows; with `+ws` the weights are standardized, and without norms (`none`) the
            convolution has a bias.
        in_channels: and out_channels, kernel_size (odd), stride, groups, as of `nn.Conv2d`.
    """
    return conv_layer(norm)(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=kernel_size // 2,
        groups=groups,
        bias=not norm.spec.normalizes,
    )
