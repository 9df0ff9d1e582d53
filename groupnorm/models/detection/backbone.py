"""Backbones: the stages of a classification network, with some of them frozen."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter

from groupnorm.layers import NormLayer, norm_layer
from groupnorm.models.classification.resnet_imagenet import imagenet_resnet
from groupnorm.models.classification.resnet_narrow import NarrowResNet
from groupnorm.models.classification.widths import NARROW_RESNET, NARROW_WIDTHS
from groupnorm.models.places import IMAGENET_PLACES, NARROW_PLACES
from groupnorm.spec import NormSpec


def classification_body(name: str, norm: NormLayer, freeze_at: int) -> nn.Module:
    """The classification network whose stages a detector takes, freshly initialized.

    Args:
        name: of an ImageNet ResNet, or of the narrow one.
        norm: normalization of all stages that are not frozen.
        freeze_at: how many parts learn nothing, counted as in Detectron: 1 the stem, 2 the stem and
            stage1 (its res2), and so on. Batch norm of a frozen part is frozen too, with its
            running statistics.

    Raises:
        ValueError: more parts to freeze than there are.
    """
    places = NARROW_PLACES if name == NARROW_RESNET else IMAGENET_PLACES
    if not 0 <= freeze_at <= len(places):
        raise ValueError(
            f"freeze_at must lie between 0 and {len(places)}, for the parts {', '.join(places)} "
            f"of {name}, got {freeze_at}"
        )
    norms = dict.fromkeys(places[:freeze_at], _without_statistics(norm))
    if name == NARROW_RESNET:
        model: nn.Module = NarrowResNet(norm=norm, norms=norms, num_classes=1)
    else:
        depth = int(name.removeprefix("resnet"))
        model = imagenet_resnet(depth, norm=norm, norms=norms, num_classes=1)
    parts = [("conv1", "bn1"), *((f"layer{number}",) for number in range(1, len(places)))]
    for part in parts[:freeze_at]:
        for module in part:
            model.get_submodule(module).requires_grad_(False)
    return model


def _without_statistics(norm: NormLayer) -> NormLayer:
    spec = norm.spec
    if not spec.uses_batch_statistics:
        return norm
    return norm_layer(NormSpec("frozenbn", eps=spec.eps, ws=spec.ws))


class Backbone(nn.Module):
    """Maps of a body's stages, through a feature pyramid where there is one.

    Attributes:
        out_channels: of each map that comes out.

    Args:
        model: a classification network; what follows the last of the stages is left out.
        stages: numbers of those whose maps are used, ascending.
        fpn: the feature pyramid on these maps, or None.
        out_channels: as above.
    """

    def __init__(
        self, model: nn.Module, stages: Sequence[int], fpn: nn.Module | None, out_channels: int
    ) -> None:
        super().__init__()
        names = {f"layer{stage}": str(number) for number, stage in enumerate(stages)}
        self.body = IntermediateLayerGetter(model, names)
        self.fpn = fpn
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> maps named "0", "1", ... from the finest on, and those of the pyramid."""
        maps: dict[str, Tensor] = self.body(x)
        return maps if self.fpn is None else self.fpn(maps)


def stage_strides(stages: Sequence[int]) -> list[int]:
    """Pixels of the image between neighbouring positions of the stages' maps."""
    return [2 << stage for stage in stages]


def stage_channels(name: str, stages: Sequence[int]) -> list[int]:
    """Channels of the stages' maps."""
    if name == NARROW_RESNET:
        return [NARROW_WIDTHS[stage - 1] for stage in stages]
    first = 256 if int(name.removeprefix("resnet")) >= 50 else 64
    return [first << (stage - 1) for stage in stages]
