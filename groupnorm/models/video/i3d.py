"""I3D ResNet-50, the baseline of the non-local networks (Wang et al. 2018, arXiv 1711.07971)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from groupnorm.layers import NormLayer, norm_and_activation
from groupnorm.models.video.architectures import I3D as NAME
from groupnorm.models.video.layers import (
    NormLike,
    conv3d,
    initialize,
    norms_of_places,
    relu,
    shortcut,
)


class _Stage(NamedTuple):
    """Blocks of equal width; `temporal` are the numbers of those that begin with a 3x1x1."""

    planes: int
    blocks: int
    temporal: tuple[int, ...]


_STAGES = (
    _Stage(64, 3, (0, 1, 2)),
    _Stage(128, 4, (0, 2)),
    _Stage(256, 6, (0, 2, 4)),
    _Stage(512, 3, (1,)),
)


class I3D(nn.Module):
    """ResNet-50 inflated in time: the network of the group norm paper's Table 8.

    Input (N, in_channels, T, H, W) with T >= 7 and H, W >= 33, in the paper 32 or 64 frames of
    224 pixels; output (N, num_classes) logits. Norms take their statistics over (T, H, W) in place
    of (H, W) (Wu & He 2018, section 4.3).

    | part | kernel, stride (T, H, W) | maps of 32x224x224 |
    |---|---|---|
    | conv1, stem | 5x7x7, (2, 2, 2) | 64, 16x112x112 |
    | maxpool | max of 2x3x3, (2, 2, 2) | 64, 8x56x56 |
    | layer1, stage1, "res2" | 3 bottlenecks | 256, 8x56x56 |
    | maxpool2 | max of 2x1x1, (2, 1, 1) | 256, 4x56x56 |
    | layer2, stage2, "res3" | 4 bottlenecks | 512, 4x28x28 |
    | layer3, stage3, "res4" | 6 bottlenecks | 1024, 4x14x14 |
    | layer4, stage4, "res5" | 3 bottlenecks | 2048, 4x7x7 |
    | avgpool, dropout, fc | mean over (T, H, W) | num_classes |

    A bottleneck is 1x1x1, 1x3x3, 1x1x1; the 1x3x3 of a stage's first block has the spatial stride
    from stage2 on, and no block has one in time. The first convolution is 3x1x1 in place of 1x1x1
    in all blocks of stage1, blocks 0 and 2 of stage2, blocks 0, 2 and 4 of stage3 and block 1 of
    stage4, as in the authors' code (facebookresearch/video-nonlocal-net, resnet_video_org.py,
    architecture 2). The paper's Table 1 and the 2-D network agree on 56x56 maps after the first max
    pooling, which is padded for that; the code leaves its padding out and has 55x55 there.

    Modules and keys have the names of torchvision's ResNet-50, so that a 2-D checkpoint is inflated
    key by key (`groupnorm.conversion.inflate`). Initialization is that of `imagenet_resnet`, which
    is the authors' too: He normal (fan-out), N(0, 0.01) in the linear layer, zero biases, and
    gamma = 0 on the last norm of each block.

    Args:
        norm: normalization of every layer, as spec, string, or factory (which also knows
            `batch_per_worker`). With `+ws` every convolution is weight-standardized. A norm that
            brings its own activation takes the place of a norm and its ReLU; on the last norm of a
            block and on a shortcut's it leaves it out. With `none` the convolutions have biases.
        norms: other normalizations of some places: stem, stage1, ... stage4.
        num_classes: number of outputs.
        in_channels: channels of the frames.
        zero_gamma: as above; with False gamma = 1.
        dropout: probability before the linear layer.

    Raises:
        ValueError: an unknown place; `none+nf`, which needs blocks of another form.
    """

    def __init__(
        self,
        *,
        norm: NormLike = "gn",
        norms: Mapping[str, NormLike] | None = None,
        num_classes: int = 400,
        in_channels: int = 3,
        zero_gamma: bool = True,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        stem, *of_stage = norms_of_places(NAME, norm, norms)
        channels = 64
        self.conv1 = conv3d(stem, in_channels, channels, (5, 7, 7), (2, 2, 2))
        self.bn1, self.relu = norm_and_activation(stem, channels, relu)
        self.maxpool = nn.MaxPool3d((2, 3, 3), stride=2, padding=(0, 1, 1))
        stages = []
        for number, (stage, placed) in enumerate(zip(_STAGES, of_stage, strict=True)):
            blocks = []
            for block in range(stage.blocks):
                stride = 2 if number > 0 and block == 0 else 1
                temporal = block in stage.temporal
                blocks.append(Bottleneck(channels, stage.planes, stride, temporal, placed))
                channels = stage.planes * Bottleneck.expansion
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.maxpool2 = nn.MaxPool3d((2, 1, 1), stride=(2, 1, 1))
        self.avgpool = nn.AdaptiveAvgPool3d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)
        blocks = [module for module in self.modules() if isinstance(module, Bottleneck)]
        initialize(self, [block.bn3 for block in blocks] if zero_gamma else [])

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, T, H, W) -> (N, num_classes) logits."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.maxpool2(self.layer1(x))
        x = self.layer4(self.layer3(self.layer2(x)))
        output: Tensor = self.fc(self.dropout(self.avgpool(x).flatten(1)))
        return output


class Bottleneck(nn.Module):
    """1x1x1 (or 3x1x1), 1x3x3 and 1x1x1 convolutions with norms; the 1x3x3 has the stride.

    Args:
        inplanes: channels of the input.
        planes: channels of the two inner norms; the output has four times as many.
        stride: of H and W, of the 1x3x3 and of the shortcut. The shortcut is a 1x1x1 convolution
            and a norm where the shape changes.
        temporal: the first convolution is 3x1x1.
        norm: normalization.
    """

    expansion = 4

    def __init__(
        self, inplanes: int, planes: int, stride: int, temporal: bool, norm: NormLayer
    ) -> None:
        super().__init__()
        outplanes = planes * self.expansion
        strides = (1, stride, stride)
        self.conv1 = conv3d(norm, inplanes, planes, (3 if temporal else 1, 1, 1))
        self.bn1, self.act1 = norm_and_activation(norm, planes, relu)
        self.conv2 = conv3d(norm, planes, planes, (1, 3, 3), strides)
        self.bn2, self.act2 = norm_and_activation(norm, planes, relu)
        self.conv3 = conv3d(norm, planes, outplanes, (1, 1, 1))
        self.bn3 = norm(outplanes, apply_act=False)
        changes = stride > 1 or inplanes != outplanes
        self.downsample = shortcut(norm, inplanes, outplanes, strides) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, inplanes, T, H, W) -> (N, 4 planes, T, ceil(H / stride), ceil(W / stride))."""
        out = self.act1(self.bn1(self.conv1(x)))
        out = self.act2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)), inplace=True)
