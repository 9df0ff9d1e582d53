"""The feature pyramid (Lin et al. 2017, arXiv 1612.03144) with any norm, or none."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, FeaturePyramidNetwork

from groupnorm.layers import NormLayer
from groupnorm.models.detection.layers import conv_norm


class NormedPyramid(FeaturePyramidNetwork):  # type: ignore[misc]
    """torchvision's feature pyramid, whose lateral and output convolutions have norms.

    As in Detectron's GN models: a norm after each lateral 1x1 and each output 3x3 convolution, no
    ReLU after it, and no bias where there is a norm (torchvision's `norm_layer` does the same, but
    takes plain convolutions alone, which leaves out `+ws`). Keys are torchvision's. Initialization
    is Caffe2's XavierFill, uniform with variance 1 / fan-in.

    Args:
        in_channels: of the maps, finest first.
        out_channels: of the pyramid's maps.
        norm: normalization.
        extra: makes the maps above the last one, or None. It has no norm.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        norm: NormLayer,
        extra: ExtraFPNBlock | None,
    ) -> None:
        super().__init__([], out_channels, extra)
        for channels in in_channels:
            lateral = conv_norm(norm, channels, out_channels, 1, activation=None)
            output = conv_norm(norm, out_channels, out_channels, 3, activation=None)
            for layers, layer in ((self.inner_blocks, lateral), (self.layer_blocks, output)):
                nn.init.kaiming_uniform_(layer[0].weight, a=1)
                layers.append(layer)
