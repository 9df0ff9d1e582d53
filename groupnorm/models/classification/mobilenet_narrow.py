"""A narrow MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381) for images of 32 pixels."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

from torch import Tensor, nn

from groupnorm.layers import NormLayer, norm_and_activation
from groupnorm.models.classification.padded_conv import padded_conv
from groupnorm.models.classification.widths import (
    MOBILENET,
    MOBILENET_LAST,
    MOBILENET_STAGES,
    MOBILENET_STEM,
)
from groupnorm.models.places import MOBILENET_PLACES, norm_of_place, refuse_normalizer_free
from groupnorm.spec import NormSpec


class NarrowMobileNet(nn.Module):
    """Inverted residuals with depthwise convolutions and linear bottlenecks.

    Input (N, in_channels, H, W) with H, W >= 8; output (N, num_classes) logits.

    | part | expansion | channels | blocks | stride | maps of 32x32 |
    |---|---|---|---|---|---|
    | conv1, stem: 3x3 | | 16 | | 1 | 32x32 |
    | stages.0, stage1 | 1 | 16 | 1 | 1 | 32x32 |
    | stages.1, stage2 | 6 | 24 | 2 | 2 | 16x16 |
    | stages.2, stage3 | 6 | 32 | 3 | 2 | 8x8 |
    | stages.3, stage4 | 6 | 64 | 3 | 2 | 4x4 |
    | last_conv, stage4: 1x1 | | 256 | | 1 | 4x4 |
    | linear: mean over (H, W) | | num_classes | | | |

    Activations are ReLU6, as published. A norm that brings its own activation (`frn`,
    `evonorm_s0`) takes the place of a norm and its ReLU6; on the last norm of a block it leaves it
    out.

    Initialization: He normal (fan-out, in a depthwise convolution that of one channel) for
    convolutions, N(0, 0.01) for the linear layer, zero biases, and gamma = 0 on the last norm of
    each block that has a shortcut; with `zero_gamma=False` gamma = 1.

    Args:
        norm: normalization of every layer, as spec, string, or factory (which also knows
            `batch_per_worker`). With `+ws` every convolution is weight-standardized.
        norms: other normalizations of some places: stem, stage1, ... stage4.
        num_classes: number of outputs.
        in_channels: channels of the images.
        zero_gamma: as above.

    Raises:
        ValueError: an unknown place; `none+nf`, which needs blocks of another form.
    """

    def __init__(
        self,
        *,
        norm: str | NormSpec | NormLayer = "gn",
        norms: Mapping[str, str | NormSpec | NormLayer] | None = None,
        num_classes: int = 10,
        in_channels: int = 3,
        zero_gamma: bool = True,
    ) -> None:
        super().__init__()
        stem, *norm_of_stage = norm_of_place(norm, norms, MOBILENET_PLACES, MOBILENET).values()
        refuse_normalizer_free(stem, MOBILENET)
        channels, last = MOBILENET_STEM, norm_of_stage[-1]
        self.conv1 = padded_conv(stem, in_channels, channels, 3)
        self.norm1, self.act1 = norm_and_activation(stem, channels, _relu6)
        stages = []
        for stage, placed in zip(MOBILENET_STAGES, norm_of_stage, strict=True):
            blocks = []
            for position in range(stage.blocks):
                stride = stage.stride if position == 0 else 1
                block = InvertedResidual(channels, stage.channels, stride, stage.expansion, placed)
                blocks.append(block)
                channels = stage.channels
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.last_conv = padded_conv(last, channels, MOBILENET_LAST, 1)
        self.last_norm, self.last_act = norm_and_activation(last, MOBILENET_LAST, _relu6)
        self.linear = nn.Linear(MOBILENET_LAST, num_classes)
        self._initialize(zero_gamma)

    def _initialize(self, zero_gamma: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.weight[:, 0].numel() // module.groups
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            if zero_gamma and isinstance(module, InvertedResidual) and module.has_shortcut:
                gamma = getattr(module.norm3, "weight", None)
                if isinstance(gamma, nn.Parameter):  # a frozen one stays
                    nn.init.zeros_(gamma)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, C, H, W)."""
        x = self.stages(self.act1(self.norm1(self.conv1(x))))
        x = self.last_act(self.last_norm(self.last_conv(x)))
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


class InvertedResidual(nn.Module):
    """1x1 to `expansion` times the channels, depthwise 3x3, and 1x1 without an activation.

    With expansion 1 the first convolution is left out. The input is added where it has the
    output's shape.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: of the depthwise convolution.
        expansion: as above.
        norm: normalization.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, expansion: int, norm: NormLayer
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.has_shortcut = stride == 1 and in_channels == out_channels
        self.expand: nn.Module = nn.Identity()
        if expansion > 1:
            norm1, act1 = norm_and_activation(norm, hidden, _relu6)
            self.expand = nn.Sequential(padded_conv(norm, in_channels, hidden, 1), norm1, act1)
        self.conv2 = padded_conv(norm, hidden, hidden, 3, stride, groups=hidden)
        self.norm2, self.act2 = norm_and_activation(norm, hidden, _relu6)
        self.conv3 = padded_conv(norm, hidden, out_channels, 1)
        self.norm3 = norm(out_channels, apply_act=False)

    def forward(self, x: Tensor) -> Tensor:
        """Output (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        out: Tensor = self.act2(self.norm2(self.conv2(self.expand(x))))
        out = self.norm3(self.conv3(out))
        return x + out if self.has_shortcut else out


_relu6 = functools.partial(nn.ReLU6, inplace=True)
