"""Places of a model that may have a norm of their own.

`stem` is what comes before the first stage; `stage1`, `stage2`, ... are the papers' stages, between
two changes of the maps' size. A shortcut belongs to the stage of its block, and so does a norm that
comes before the block's change of size. A U-Net has an `encoder` and a `decoder`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from groupnorm.layers import NormLayer
    from groupnorm.spec import NormSpec

_STAGES = ("stage1", "stage2", "stage3", "stage4", "stage5")
CIFAR_PLACES = ("stem", *_STAGES[:3])
NARROW_PLACES = ("stem", *_STAGES[:3])
MOBILENET_PLACES = ("stem", *_STAGES[:4])
IMAGENET_PLACES = ("stem", *_STAGES[:4])
VGG_PLACES = _STAGES
"""VGG-16 has no stem; each of its stages ends in a max pooling."""
UNET_PLACES = ("encoder", "decoder")
"""The lowest level of a U-Net belongs to its encoder."""
UNET_ENCODER_PLACES = _STAGES[:4]
"""As a classifier it has a stage for each level, up to the max pooling."""


def check_given(given: Iterable[str], places: tuple[str, ...], model: str) -> None:
    """Check that a model has the places that are given.

    Raises:
        ValueError: it has not; the message lists its places.
    """
    for place in given:
        if place not in places:
            raise ValueError(f"{model} has no place {place!r}; its places: {', '.join(places)}")


def norm_of_place(
    norm: str | NormSpec | NormLayer,
    given: Mapping[str, str | NormSpec | NormLayer] | None,
    places: tuple[str, ...],
    model: str,
) -> dict[str, NormLayer]:
    """The norm of every place of a model, in their order: the one given, or `norm`.

    Raises:
        ValueError: a place that the model does not have; `none+nf`, which changes the blocks of
            the whole network, in some places and another norm in others.
    """
    from groupnorm.layers import norm_layer  # which needs torch; the names of places do not

    check_given(given or {}, places, model)
    norms = {place: norm_layer((given or {}).get(place, norm)) for place in places}
    if len({placed.spec.nf for placed in norms.values()}) > 1:
        raise ValueError(
            "none+nf changes the blocks of the whole network; give it as norm, without norms of "
            "other places"
        )
    return norms


def refuse_normalizer_free(norm: NormLayer, model: str) -> None:
    """Refuse `none+nf` for a model that has no blocks for it.

    Raises:
        ValueError: the norm is `none+nf`.
    """
    if norm.spec.nf:
        raise ValueError(
            f"{norm.spec} needs blocks of another form than {model} has; it goes with the "
            "CIFAR-type ResNets (resnet8, resnet20, ...)"
        )
