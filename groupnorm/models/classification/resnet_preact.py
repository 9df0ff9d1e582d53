"""The pre-activation ResNet for small images (He et al. 2016b, arXiv 1603.05027).

Depth 6n + 2: stages, channels and maps are those of `ResNetCifar`. In a block norm and ReLU come
before each convolution ("full pre-activation", Figure 4e), and nothing follows the addition.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from torch import Tensor, nn

from groupnorm.layers import NormLayer, norm_and_activation
from groupnorm.models.classification.padded_conv import padded_conv
from groupnorm.models.classification.resnet_cifar import SubsampleAndPad
from groupnorm.models.classification.widths import cifar_widths
from groupnorm.models.places import CIFAR_PLACES, norm_of_place, refuse_normalizer_free
from groupnorm.spec import NormSpec


class PreactResNet(nn.Module):
    """Pre-activation ResNet for small images.

    Input (N, in_channels, H, W) with H, W >= 4; output (N, num_classes) logits.

    The first block has no norm and ReLU of its own before its first convolution: the stem's come
    before the two paths part. A last norm and ReLU, those of stage3, follow the last addition
    (section 3.2 of the paper, "On the usage of pre-activation"). Where the shape changes, the
    shortcut begins behind the block's first norm and ReLU, as in the authors' code.

    Initialization is that of `ResNetCifar`: He normal (fan-out) for convolutions, N(0, 0.01) and
    zero bias for the linear layer. Every gamma is 1: no norm is the last layer of a block, and
    behind a norm whose gamma is 0 a ReLU would pass no gradient.

    A norm that brings its own activation (`frn`, `evonorm_s0`) takes the place of a norm and its
    ReLU everywhere.

    Args:
        depth: 6n + 2: 8, 14, 20, 32, 44, 56, 110.
        norm: normalization of every layer, as spec, string, or factory (which also knows
            `batch_per_worker`). With `+ws` every convolution is weight-standardized.
        norms: other normalizations of some places: stem, stage1, stage2, stage3.
        num_classes: number of outputs.
        in_channels: channels of the images.
        width: factor on 16, 32, 64.
        shortcut: "A" (subsample and pad with zero channels; no parameters) or "B" (a strided 1x1
            convolution without a norm), where the shape changes.

    Raises:
        ValueError: depth is not 6n + 2, unknown shortcut or place, width below 1/16, or `none+nf`,
            which needs blocks of another form.
    """

    def __init__(
        self,
        depth: int = 20,
        *,
        norm: str | NormSpec | NormLayer = "gn",
        norms: Mapping[str, str | NormSpec | NormLayer] | None = None,
        num_classes: int = 10,
        in_channels: int = 3,
        width: float = 1.0,
        shortcut: str = "A",
    ) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth must be 6n + 2 (8, 14, 20, 32, 56, 110, ...), got {depth}")
        if shortcut not in ("A", "B"):
            raise ValueError(f"shortcut must be 'A' or 'B', got {shortcut!r}")
        name = f"preact_resnet{depth}"
        stem, *norm_of_stage = norm_of_place(norm, norms, CIFAR_PLACES, name).values()
        refuse_normalizer_free(stem, name)
        widths = cifar_widths(width)
        self.conv1 = padded_conv(stem, in_channels, widths[0], 3)
        self.norm1, self.act1 = norm_and_activation(stem, widths[0], _relu)
        channels = widths[0]
        stages = []
        for index, (out_channels, placed) in enumerate(zip(widths, norm_of_stage, strict=True)):
            blocks = []
            for position in range((depth - 2) // 6):
                stride = 2 if index > 0 and position == 0 else 1
                block = PreactBlock(
                    channels, out_channels, stride, placed, shortcut,
                    activated=index == position == 0,
                )  # fmt: skip
                blocks.append(block)
                channels = out_channels
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.last_norm, self.last_act = norm_and_activation(norm_of_stage[-1], channels, _relu)
        self.linear = nn.Linear(channels, num_classes)
        self._initialize()

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, C, H, W)."""
        x = self.act1(self.norm1(self.conv1(x)))
        x = self.last_act(self.last_norm(self.stages(x)))
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


class PreactBlock(nn.Module):
    """conv2(act2(norm2(conv1(act1(norm1(x)))))) + x, with 3x3 convolutions.

    Where the shape changes, the shortcut of act1(norm1(x)) takes the place of x. act1 and act2 are
    ReLU, or nothing after a norm that brings its own activation.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: of the first convolution and of the shortcut.
        norm: normalization.
        shortcut: "A" or "B", as in `PreactResNet`.
        activated: the input has gone through a norm and ReLU; norm1 and act1 do nothing.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        norm: NormLayer,
        shortcut: str,
        *,
        activated: bool,
    ) -> None:
        super().__init__()
        self.norm1: nn.Module = nn.Identity()
        self.act1: nn.Module = nn.Identity()
        if not activated:
            # where nothing normalizes, act1 gets the block's input, which the addition needs
            first = functools.partial(nn.ReLU, inplace=norm.spec.normalizes)
            self.norm1, self.act1 = norm_and_activation(norm, in_channels, first)
        self.conv1 = padded_conv(norm, in_channels, out_channels, 3, stride)
        self.norm2, self.act2 = norm_and_activation(norm, out_channels, _relu)
        self.conv2 = padded_conv(norm, out_channels, out_channels, 3)
        self.shortcut: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = (
                SubsampleAndPad(stride, out_channels - in_channels)
                if shortcut == "A"
                else padded_conv(norm, in_channels, out_channels, 1, stride)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Output (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        activated = self.act1(self.norm1(x))
        out: Tensor = self.conv2(self.act2(self.norm2(self.conv1(activated))))
        return out + (x if self.shortcut is None else self.shortcut(activated))


_relu = functools.partial(nn.ReLU, inplace=True)
