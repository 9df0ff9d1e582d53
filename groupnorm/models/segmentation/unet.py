"""A small U-Net (Ronneberger et al. 2015, arXiv 1505.04597)."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groupnorm.layers import NormLayer, conv_layer, norm_and_activation
from groupnorm.models.places import UNET_PLACES, norm_of_place, refuse_normalizer_free
from groupnorm.models.segmentation.architectures import UNET, UNET_WIDTHS
from groupnorm.spec import NormSpec


class UNet(nn.Module):
    """U-Net of three levels below full size, with 16, 32, 64 and 128 channels.

    Input (N, in_channels, H, W) with H and W multiples of 8; output (N, num_classes, H, W) logits.

    Each level has two 3x3 convolutions with zero padding, each with norm and ReLU. On the way down
    a 2x2 max pooling halves the maps; on the way up a 2x2 transposed convolution with stride 2,
    without a norm, doubles them, and the maps of the same level on the way down are concatenated.
    The logits are a 1x1 convolution of the last maps.

    Initialization: He normal (fan-out for convolutions, fan-in for transposed ones, whose kernels
    do not overlap), N(0, 0.01) for the logits, zero biases.

    Args:
        norm: normalization of every layer, as spec, string, or factory (which also knows
            `batch_per_worker`). With `+ws` every convolution but that of the logits is
            weight-standardized. A norm that brings its own activation takes the place of a norm
            and its ReLU.
        norms: other normalizations of some places: encoder (with the lowest level), decoder.
        num_classes: number of classes, that of the background among them.
        in_channels: channels of the images.

    Raises:
        ValueError: an unknown place; `none+nf`, which needs blocks of another form.
    """

    def __init__(
        self,
        *,
        norm: str | NormSpec | NormLayer = "gn",
        norms: Mapping[str, str | NormSpec | NormLayer] | None = None,
        num_classes: int = 11,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        encoder, decoder = norm_of_place(norm, norms, UNET_PLACES, UNET).values()
        refuse_normalizer_free(encoder, UNET)
        self.encoder = Encoder([encoder] * len(UNET_WIDTHS), in_channels)
        channels = UNET_WIDTHS[-1]
        self.upsample, self.decoder = nn.ModuleList(), nn.ModuleList()
        transposed = conv_layer(decoder, transposed=True)
        for width in reversed(UNET_WIDTHS[:-1]):
            self.upsample.append(transposed(channels, width, 2, stride=2))
            self.decoder.append(DoubleConv(2 * width, width, decoder))
            channels = width
        self.logits = nn.Conv2d(channels, num_classes, 1)
        initialize(self, self.logits)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, num_classes, H, W) logits."""
        *skipped, x = self.encoder(x)
        for upsample, level in zip(self.upsample, self.decoder, strict=True):
            x = level(torch.cat([skipped.pop(), upsample(x)], 1))
        logits: Tensor = self.logits(x)
        return logits


class Encoder(nn.ModuleList):
    """The way down of the U-Net, with the lowest level.

    (N, in_channels, H, W) -> the maps of each level: (N, 16, H, W), (N, 32, H / 2, W / 2),
    (N, 64, H / 4, W / 4) and (N, 128, H / 8, W / 8).

    Args:
        norms: normalization of each level.
        in_channels: channels of the images.
    """

    def __init__(self, norms: Sequence[NormLayer], in_channels: int) -> None:
        channels = (in_channels, *UNET_WIDTHS[:-1])
        super().__init__(map(DoubleConv, channels, UNET_WIDTHS, norms))

    def forward(self, x: Tensor) -> list[Tensor]:
        """See the class."""
        maps: list[Tensor] = []
        for level in self:
            x = level(F.max_pool2d(x, 2) if maps else x)
            maps.append(x)
        return maps


class DoubleConv(nn.Sequential):
    """Two 3x3 convolutions with zero padding, each with its norm and ReLU.

    (N, in_channels, H, W) -> (N, out_channels, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int, norm: NormLayer) -> None:
        layers: list[nn.Module] = []
        for channels in (in_channels, out_channels):
            conv = conv_layer(norm)(
                channels, out_channels, 3, padding=1, bias=not norm.spec.normalizes
            )
            layers += [conv, *norm_and_activation(norm, out_channels, _relu)]
        super().__init__(*layers)


def initialize(model: nn.Module, last: nn.Conv2d | nn.Linear) -> None:
    """First values of a network's convolutions, as the docstring of `UNet` says, and of its `last`
    layer, in place."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=math.sqrt(2 / module.in_channels))
        elif module is not last:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    nn.init.normal_(last.weight, std=0.01)


_relu = functools.partial(nn.ReLU, inplace=True)
