"""A classifier whose body is the encoder of the small U-Net, which can start from its weights."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from groupnorm.layers import NormLayer
from groupnorm.models.places import UNET_ENCODER_PLACES, norm_of_place, refuse_normalizer_free
from groupnorm.models.segmentation.architectures import UNET_ENCODER, UNET_WIDTHS
from groupnorm.models.segmentation.unet import Encoder, initialize
from groupnorm.spec import NormSpec


class UNetEncoder(nn.Module):
    """`Encoder` of `UNet`, the mean of its lowest maps over all positions, and a linear layer.

    Input (N, in_channels, H, W) with H and W multiples of 8; output (N, num_classes) logits. The
    keys of the encoder are those that it has in the U-Net, `encoder.0.0.weight` and so on.

    Initialization: He normal (fan-out) for convolutions, N(0, 0.01) for the linear layer, zero
    biases.

    Args:
        norm: normalization of every layer, as spec, string, or factory. With `+ws` the convolutions
            are weight-standardized.
        norms: other normalizations of some places: stage1, ... stage4, the levels from full size
            down.
        num_classes: number of outputs.
        in_channels: channels of the images.

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
    ) -> None:
        super().__init__()
        placed = list(norm_of_place(norm, norms, UNET_ENCODER_PLACES, UNET_ENCODER).values())
        refuse_normalizer_free(placed[0], UNET_ENCODER)
        self.encoder = Encoder(placed, in_channels)
        self.fc = nn.Linear(UNET_WIDTHS[-1], num_classes)
        initialize(self, self.fc)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, num_classes) logits."""
        *_, lowest = self.encoder(x)
        logits: Tensor = self.fc(lowest.mean((2, 3)))
        return logits
