"""The CIFAR-type ResNet of He et al. 2016 (arXiv 1512.03385, section 4.2).

Depth 6n + 2: a 3x3 convolution, then three stages of n basic blocks at 16, 32 and 64 channels
(times `width`) on maps of full, half and quarter size, global average pooling and one linear layer.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from groupnorm.layers import NormLayer, conv_layer, norm_and_activation
from groupnorm.models.classification.nf_block import NFBlock, SignalVariance
from groupnorm.models.classification.widths import cifar_widths
from groupnorm.models.places import CIFAR_PLACES, norm_of_place
from groupnorm.spec import NormSpec


class ResNetCifar(nn.Module):
    """CIFAR-type ResNet for small images.

    Input (N, in_channels, H, W) with H, W >= 4; output (N, num_classes) logits.

    Initialization: He normal (fan-out) for convolutions, N(0, 0.01) and zero bias for the linear
    layer, and gamma = 0 on the last norm of each block (Wu & He 2018, section 4.1), so that every
    block starts as its shortcut; with `zero_gamma=False` gamma = 1.

    A norm that brings its own activation (`frn`, `evonorm_s0`) takes the place of a norm and its
    ReLU. On the last norm of a block and on a shortcut's it leaves its activation out, and ReLU
    follows the addition, as with every norm.

    With `none+nf` it is a normalizer-free ResNet: scaled weight standardization, the blocks of
    `NFBlock`, whose activations come before the convolutions, and a ReLU after the last of them.

    Args:
        depth: 6n + 2: 8, 14, 20, 32, 44, 56, 110.
        norm: normalization of every layer, as spec, string, or factory (which also knows
            `batch_per_worker`). With `+ws` every convolution is weight-standardized.
            An activation of the factory takes the place of the ReLU that follows a norm.
        norms: other normalizations of some places: stem, stage1, stage2, stage3.
        num_classes: number of outputs.
        in_channels: channels of the images.
        width: factor on 16, 32, 64.
        shortcut: "A" (subsample and pad with zero channels; no parameters) or "B" (a strided 1x1
            convolution and a norm), where the shape changes.
        zero_gamma: as above. Blocks of `none+nf` start as their shortcut in any case.

    Raises:
        ValueError: depth is not 6n + 2, unknown shortcut or place, width below 1/16, or `none+nf`
            beside another norm.
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
        zero_gamma: bool = True,
    ) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth must be 6n + 2 (8, 14, 20, 32, 56, 110, ...), got {depth}")
        if shortcut not in ("A", "B"):
            raise ValueError(f"shortcut must be 'A' or 'B', got {shortcut!r}")
        widths = cifar_widths(width)
        stem, *norm_of_stage = norm_of_place(norm, norms, CIFAR_PLACES, f"resnet{depth}").values()
        nf = stem.spec.nf
        self.conv1 = _conv3x3(stem, in_channels, widths[0], 1, after_relu=False)
        self.norm1, self.act1 = norm_and_activation(stem, widths[0], nn.Identity if nf else _relu)
        blocks_per_stage = (depth - 2) // 6
        stages = []
        channels = widths[0]
        variance = SignalVariance()
        for index, (out_channels, norm) in enumerate(zip(widths, norm_of_stage, strict=True)):
            blocks: list[nn.Module] = []
            for position in range(blocks_per_stage):
                stride = 2 if index > 0 and position == 0 else 1
                if nf:
                    block = _nf_block(channels, out_channels, stride, norm, shortcut, variance)
                    blocks.append(block)
                else:
                    blocks.append(BasicBlock(channels, out_channels, stride, norm, shortcut))
                channels = out_channels
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.last_act = _relu() if nf else nn.Identity()
        self.linear = nn.Linear(channels, num_classes)
        self._initialize(zero_gamma)

    def _initialize(self, zero_gamma: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if zero_gamma and isinstance(module, BasicBlock):
                gamma = getattr(module.norm2, "weight", None)
                if isinstance(gamma, nn.Parameter):  # a frozen one stays
                    nn.init.zeros_(gamma)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, C, H, W)."""
        x = self.act1(self.norm1(self.conv1(x)))
        x = self.last_act(self.stages(x))
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with norms: relu(norm2(conv2(act1(norm1(conv1(x))))) + shortcut(x)).

    act1 is ReLU, or nothing after a norm that brings its own activation.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, norm: NormLayer, shortcut: str
    ) -> None:
        super().__init__()
        self.conv1 = _conv3x3(norm, in_channels, out_channels, stride)
        self.norm1, self.act1 = norm_and_activation(norm, out_channels, _relu)
        self.conv2 = _conv3x3(norm, out_channels, out_channels, 1)
        self.norm2 = norm(out_channels, apply_act=False)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            if shortcut == "A":
                self.shortcut = SubsampleAndPad(stride, out_channels - in_channels)
            else:
                conv = _conv1x1(norm, in_channels, out_channels, stride)
                self.shortcut = nn.Sequential(conv, norm(out_channels, apply_act=False))

    def forward(self, x: Tensor) -> Tensor:
        """Output (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        out = self.act1(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        return F.relu(out + self.shortcut(x), inplace=True)


def _nf_block(
    in_channels: int,
    out_channels: int,
    stride: int,
    norm: NormLayer,
    shortcut: str,
    variance: SignalVariance,
) -> NFBlock:
    path: nn.Module | None = None
    path_variance = None
    if stride != 1 or in_channels != out_channels:
        if shortcut == "A":
            path = SubsampleAndPad(stride, out_channels - in_channels)
            path_variance = in_channels / out_channels  # the new channels are zero
        else:
            path = _conv1x1(norm, in_channels, out_channels, stride)
            path_variance = 1.0
    return NFBlock(
        _conv3x3(norm, in_channels, out_channels, stride),
        _conv3x3(norm, out_channels, out_channels, 1),
        path,
        shortcut_after_activation=shortcut == "B",
        beta=variance.next_beta(path_variance),
    )


class SubsampleAndPad(nn.Module):
    """Option A of He et al. 2016: every stride-th pixel, and zeros for the new channels."""

    def __init__(self, stride: int, new_channels: int) -> None:
        super().__init__()
        self.stride = stride
        self.new_channels = new_channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C + new_channels, ceil(H / stride), ceil(W / stride))."""
        before = self.new_channels // 2
        after = self.new_channels - before
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, after))

    def extra_repr(self) -> str:
        """The two numbers, for repr."""
        return f"stride={self.stride}, new_channels={self.new_channels}"


_relu = functools.partial(nn.ReLU, inplace=True)


def _conv3x3(
    norm: NormLayer, in_channels: int, out_channels: int, stride: int, *, after_relu: bool = True
) -> nn.Module:
    conv = conv_layer(norm, "relu" if after_relu else None)
    return conv(in_channels, out_channels, 3, stride=stride, padding=1, bias=_needs_bias(norm))


def _conv1x1(norm: NormLayer, in_channels: int, out_channels: int, stride: int) -> nn.Module:
    conv = conv_layer(norm, "relu")
    return conv(in_channels, out_channels, 1, stride=stride, bias=_needs_bias(norm))


def _needs_bias(norm: NormLayer) -> bool:
    return not norm.spec.normalizes


def count_parameters(model: nn.Module) -> int:
    """The number of learnable values of `model`."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
