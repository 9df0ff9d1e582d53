"""A narrow ResNet for images of 48 pixels and more, the backbone of the small detectors."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from torch import Tensor, nn

from groupnorm.layers import NormLayer, conv_layer, norm_and_activation
from groupnorm.models.classification.resnet_imagenet import BasicBlock
from groupnorm.models.classification.widths import NARROW_RESNET, NARROW_WIDTHS
from groupnorm.models.places import NARROW_PLACES, norm_of_place, refuse_normalizer_free
from groupnorm.spec import NormSpec

_BLOCKS = 2


class NarrowResNet(nn.Module):
    """ResNet of depth 14: a 3x3 convolution with stride 2, then three stages of two basic blocks.

    Input (N, in_channels, H, W) with H, W >= 16; output (N, num_classes) logits. The stages have
    32, 64 and 128 channels on maps of a fourth, an eighth and a sixteenth of the image's side, so
    that they take the places of an ImageNet ResNet's in a detector; modules and keys have the names
    of that: `conv1`, `bn1`, `layer1` to `layer3`, `fc`. The first block of each stage has a
    projection as its shortcut.

    Initialization is that of `imagenet_resnet`: He normal (fan-out), N(0, 0.01) in the linear
    layer, zero biases, and gamma = 0 on the last norm of each block; 1 with `zero_gamma=False`.

    Args:
        norm: normalization of every layer, as spec, string, or factory. With `+ws` every
            convolution is weight-standardized.
        norms: other normalizations of some places: stem, stage1, stage2, stage3.
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
        stem, *of_stage = norm_of_place(norm, norms, NARROW_PLACES, NARROW_RESNET).values()
        refuse_normalizer_free(stem, NARROW_RESNET)
        channels = NARROW_WIDTHS[0]
        self.conv1 = conv_layer(stem)(
            in_channels, channels, 3, stride=2, padding=1, bias=not stem.spec.normalizes
        )
        self.bn1, self.relu = norm_and_activation(
            stem, channels, functools.partial(nn.ReLU, inplace=True)
        )
        for number, (planes, placed) in enumerate(zip(NARROW_WIDTHS, of_stage, strict=True), 1):
            first = BasicBlock(channels, planes, 2, nn.Identity(), norm_layer=placed)
            others = [BasicBlock(planes, planes, norm_layer=placed) for _ in range(_BLOCKS - 1)]
            setattr(self, f"layer{number}", nn.Sequential(first, *others))
            channels = planes
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        self._initialize(zero_gamma)

    def _initialize(self, zero_gamma: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            if zero_gamma and isinstance(module, BasicBlock):
                gamma = getattr(module.last_norm(), "weight", None)
                if isinstance(gamma, nn.Parameter):  # a frozen one stays
                    nn.init.zeros_(gamma)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, num_classes) logits."""
        x = self.relu(self.bn1(self.conv1(x)))
        for number in range(1, len(NARROW_WIDTHS) + 1):
            x = self.get_submodule(f"layer{number}")(x)
        output: Tensor = self.fc(self.avgpool(x).flatten(1))
        return output
