"""ResNet-18, 34, 50 and 101 for ImageNet (He et al. 2016, Table 1) on torchvision's builder."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from groupnorm.layers import NormLayer, norm_and_activation
from groupnorm.layers import norm_layer as make_norm
from groupnorm.models.classification.padded_conv import padded_conv
from groupnorm.models.classification.widths import BLOCKS_PER_STAGE
from groupnorm.models.optional import torchvision_models
from groupnorm.models.places import IMAGENET_PLACES, norm_of_place
from groupnorm.spec import NormSpec


def imagenet_resnet(
    depth: int,
    *,
    norm: str | NormSpec | NormLayer = "gn",
    norms: Mapping[str, str | NormSpec | NormLayer] | None = None,
    num_classes: int = 1000,
    in_channels: int = 3,
    zero_gamma: bool = True,
) -> nn.Module:
    """A `torchvision.models.ResNet` of the group norm paper (Wu & He 2018, section 4.1).

    Input (N, in_channels, H, W) with H, W >= 1, the paper's 224; output (N, num_classes) logits.
    Stem of a 7x7 convolution with stride 2 and max pooling, basic blocks (18, 34) or bottlenecks
    (50, 101), global average pooling and one linear layer. The keys of the state dict are
    torchvision's, so that with `bn` state dicts load both ways; `norm_spec` holds the spec.

    torchvision's builder gives the stages, the forward pass and He initialization (normal,
    fan-out). Paper and torchvision agree that a bottleneck has its stride on the 3x3 convolution,
    and that the shortcut is a 1x1 convolution with a norm where the shape changes. Where the
    paper's details differ from torchvision's defaults, they are the paper's:

    - gamma = 0 on the last norm of each block (section 4.1), which torchvision calls
      `zero_init_residual` and leaves out; with `zero_gamma=False` gamma = 1;
    - N(0, 0.01) and zero bias in the linear layer (the first author's TensorFlow code; the paper
      does not say), where torchvision has torch's uniform initialization.

    The blocks are this module's, with the keys and the values of torchvision's, whose builder takes
    them as it takes `norm_layer`: torchvision's own share one ReLU among all places of a block and
    have plain convolutions without bias, which leaves out norms with an activation, `+ws` and
    `none`.

    A norm that brings its own activation (`frn`, `evonorm_s0`) takes the place of a norm and its
    ReLU. On the last norm of a block and on a shortcut's it leaves its activation out, and ReLU
    follows the addition, as with every norm. With `none` the convolutions have biases.

    Args:
        depth: 18, 34, 50 or 101.
        norm: normalization of every layer, as spec, string, or factory (which also knows
            `batch_per_worker`). With `+ws` every convolution is weight-standardized.
            An activation of the factory takes the place of the ReLU that follows a norm.
        norms: other normalizations of some places: stem, stage1, ... stage4.
        num_classes: number of outputs.
        in_channels: channels of the images.
        zero_gamma: as above.

    Raises:
        ValueError: another depth; an unknown place; `none+nf`, which needs blocks of another form;
            norms without scale, which torchvision's builder cannot initialize.
        ImportError: torchvision is missing.
    """
    if depth not in BLOCKS_PER_STAGE:
        known = ", ".join(map(str, BLOCKS_PER_STAGE))
        raise ValueError(f"the ImageNet ResNets have depth {known}, got {depth}")
    norm = make_norm(norm)
    stem, *of_stage = norm_of_place(norm, norms, IMAGENET_PLACES, f"resnet{depth}").values()
    for placed in (stem, *of_stage):
        _check_norm(placed.spec)
    block = BasicBlock if depth < 50 else Bottleneck
    blocks = _Blocks(block, dict(zip(_PLANES, of_stage, strict=True)))
    model: nn.Module = torchvision_models().ResNet(
        blocks,
        list(BLOCKS_PER_STAGE[depth]),
        num_classes=num_classes,
        norm_layer=norm,
    )
    model.conv1 = padded_conv(stem, in_channels, 64, 7, 2)
    model.bn1, model.relu = norm_and_activation(stem, 64, _relu)
    model.norm_spec = norm.spec  # type: ignore[assignment]
    _initialize(model, zero_gamma)
    return model


_PLANES = (64, 128, 256, 512)
"""What torchvision's builder calls the blocks of the four stages with."""


@dataclass(frozen=True)
class _Blocks:
    """Stands where torchvision's builder expects the class of a block: each stage has its norm."""

    block: type[BasicBlock] | type[Bottleneck]
    norm_of_planes: Mapping[int, NormLayer]

    @property
    def expansion(self) -> int:
        return self.block.expansion

    def __call__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        *_: Any,
        **__: Any,
    ) -> nn.Module:
        """The block; what else torchvision says is the same for all of these networks."""
        norm = self.norm_of_planes[planes]
        return self.block(inplanes, planes, stride, downsample, norm_layer=norm)


def _check_norm(spec: NormSpec) -> None:
    if spec.nf:
        raise ValueError(
            f"{spec} scales the residual branches, which needs blocks of another form than the "
            "ImageNet ResNets have; it goes with the CIFAR-type ResNets (resnet8, resnet20, ...)"
        )
    if not spec.affine:
        raise ValueError(
            f"{spec}: torchvision's ResNet sets the scale of its norms to 1 when it is built, so "
            "affine=false goes with the CIFAR-type ResNets and vgg16 only"
        )


def _initialize(model: nn.Module, zero_gamma: bool) -> None:
    """What torchvision's builder leaves out; it has seen every convolution but the new stem."""
    stem = model.conv1
    assert isinstance(stem, nn.Conv2d)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if zero_gamma and isinstance(module, BasicBlock | Bottleneck):
            gamma = getattr(module.last_norm(), "weight", None)
            if isinstance(gamma, nn.Parameter):  # a frozen one stays
                nn.init.zeros_(gamma)
    linear = model.fc
    assert isinstance(linear, nn.Linear)
    nn.init.normal_(linear.weight, std=0.01)
    nn.init.zeros_(linear.bias)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with norms, relu(bn2(conv2(act1(bn1(conv1(x))))) + shortcut(x)).

    He et al. 2016, Figure 5 left. act1 is ReLU, or nothing after a norm that brings its own
    activation.

    Args:
        inplanes: channels of x.
        planes: channels of the output.
        stride: of the first convolution and of the shortcut.
        downsample: None where the shortcut is x itself; else the shortcut is a 1x1 convolution and
            a norm, built here in place of torchvision's.
        groups: and base_width and dilation, of torchvision's call; ResNet-18 to 101 have its
            defaults.
        norm_layer: normalization.
    """

    expansion = 1

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        groups: int = 1,
        base_width: int = 64,
        dilation: int = 1,
        norm_layer: str | NormLayer = "gn",
    ) -> None:
        super().__init__()
        norm = make_norm(norm_layer)
        self.conv1 = padded_conv(norm, inplanes, planes, 3, stride)
        self.bn1, self.act1 = norm_and_activation(norm, planes, _relu)
        self.conv2 = padded_conv(norm, planes, planes, 3)
        self.bn2 = norm(planes, apply_act=False)
        self.downsample = (
            _shortcut(norm, inplanes, planes, stride) if downsample is not None else None
        )

    def last_norm(self) -> nn.Module:
        """The norm that the addition follows."""
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        """(N, inplanes, H, W) -> (N, planes, ceil(H / stride), ceil(W / stride))."""
        out = self.act1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)), inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with norms; the 3x3 has the stride.

    He et al. 2016, Figure 5 right, which has the stride on the first convolution; it stands on the
    3x3 in fb.resnet.torch, whose details the group norm paper follows, and in torchvision.

    Args:
        inplanes: channels of x.
        planes: channels of the two inner norms; the output has four times as many.
        stride: of the 3x3 convolution and of the shortcut; the others as in `BasicBlock`.
    """

    expansion = 4

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        groups: int = 1,
        base_width: int = 64,
        dilation: int = 1,
        norm_layer: str | NormLayer = "gn",
    ) -> None:
        super().__init__()
        norm = make_norm(norm_layer)
        outplanes = planes * self.expansion
        self.conv1 = padded_conv(norm, inplanes, planes, 1)
        self.bn1, self.act1 = norm_and_activation(norm, planes, _relu)
        self.conv2 = padded_conv(norm, planes, planes, 3, stride)
        self.bn2, self.act2 = norm_and_activation(norm, planes, _relu)
        self.conv3 = padded_conv(norm, planes, outplanes, 1)
        self.bn3 = norm(outplanes, apply_act=False)
        self.downsample = (
            _shortcut(norm, inplanes, outplanes, stride) if downsample is not None else None
        )

    def last_norm(self) -> nn.Module:
        """The norm that the addition follows."""
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        """(N, inplanes, H, W) -> (N, 4 planes, ceil(H / stride), ceil(W / stride))."""
        out = self.act1(self.bn1(self.conv1(x)))
        out = self.act2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)), inplace=True)


_relu = functools.partial(nn.ReLU, inplace=True)


def _shortcut(norm: NormLayer, in_channels: int, out_channels: int, stride: int) -> nn.Module:
    conv = padded_conv(norm, in_channels, out_channels, 1, stride)
    return nn.Sequential(conv, norm(out_channels, apply_act=False))
