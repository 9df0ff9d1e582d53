"""How many groups a converted layer gets, and its scale and shift."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from groupnorm.conversion.sources import SourceNorm
from groupnorm.spec import NormSpec

Groups: TypeAlias = "Callable[[str, int], int]"
CANDIDATES = (32, 16, 8, 4, 2, 1)
"""Numbers of groups that a conversion chooses from, the first that is possible."""
CHANNELS_WITHOUT_DATA = 16
"""Smallest group where no number of groups is asked for: with fewer channels an image's group
statistics lie far from the stored ones."""
MIN_CHANNELS = 4
"""Channels that a group has at least, where a layer has that many."""


def check_target(spec: NormSpec, groups: Groups | None, min_channels: int) -> None:
    """Check that a conversion can go to a norm, with these arguments.

    Raises:
        ValueError: it cannot.
    """
    if min_channels < 1:
        raise ValueError(f"min_channels must be at least 1, got {min_channels}")
    if spec.ws:
        raise ValueError(
            f"{spec}: convert the norms first, then standardize the weights with "
            "groupnorm.conversion.standardize_weights, which keeps what the network computes"
        )
    if not spec.affine:
        raise ValueError(f"{spec}: scale and shift carry what the batch norms knew")
    if not (spec.is_group_norm or spec.uses_batch_statistics):
        raise ValueError(
            f"{spec} keeps nothing of a batch norm; convert to gn, ln, in, bn, syncbn or brn. "
            "groupnorm.conversion.freeze makes frozen batch norms"
        )
    if groups is not None and not spec.is_group_norm:
        raise ValueError(f"groups goes with gn, not with {spec}")
    if groups is not None and min_channels != MIN_CHANNELS:
        raise ValueError("groups gives the numbers of groups itself; leave out min_channels")


def groups_asked(
    name: str,
    channels: int,
    to: str | NormSpec,
    groups: Groups | None = None,
    min_channels: int = MIN_CHANNELS,
) -> tuple[int, str]:
    """The number of groups of a layer, and what a reader should know about it.

    Args:
        name: of the layer.
        channels: C.
        to: the norm asked for. "gn" alone leaves the choice to the conversion: the most of 32, 16,
            8, 4, 2 and 1 groups that divide C and hold at least 16 channels each. With a number of
            groups, or of channels a group, it is the largest divisor of C that is at most the
            number of groups and leaves `min_channels` in each.
        groups: takes name and C and gives the number; it must divide C.
        min_channels: of a group, where there are as many.

    Raises:
        ValueError: `groups` gives no divisor, or the kind has groups of fewer channels.
        TypeError: `groups` is no function.
    """
    if groups is not None:
        if not callable(groups):
            raise TypeError(
                f"groups must be a function of a layer's name and channels, got {groups!r}; for a "
                'number write to="gn:groups=8"'
            )
        found = groups(name, channels)
        if not isinstance(found, int) or found < 1 or channels % found:
            raise ValueError(
                f"groups must give a divisor of the channels, got {found!r} for {name} with "
                f"{channels} channels"
            )
        return found, ""
    spec = NormSpec.parse(to)
    if is_free(spec):
        least = max(CHANNELS_WITHOUT_DATA, min_channels)
        most = max(channels // least, 1)
        found = next(g for g in CANDIDATES if g <= most and channels % g == 0)
        return found, _note_of_indivisible(channels, found, most)
    asked = spec.num_groups(channels)
    most = max(channels // min(min_channels, channels), 1)
    if not _has_number(spec) and asked > most:
        raise ValueError(
            f"{spec} has one channel in each group of {name}; the mean of a channel over an image "
            "is then lost. min_channels=1 allows it"
        )
    found = next(g for g in range(min(asked, most), 0, -1) if channels % g == 0)
    if spec.groups == "auto":
        return found, _note_of_indivisible(channels, found, most)
    if spec.size is not None:
        unlike = channels != found * min(spec.size, channels)
        return found, f"groups of {spec.size} channels asked for" if unlike else ""
    wanted = spec.groups if isinstance(spec.groups, int) else asked
    return found, "" if found == wanted else f"{wanted} groups asked for"


def _note_of_indivisible(channels: int, found: int, most: int) -> str:
    """Said of a large layer with one group, because of its divisors and not for its size."""
    indivisible = found == 1 and most > 1
    return f"no other number of groups divides {channels} channels" if indivisible else ""


def is_free(spec: NormSpec) -> bool:
    """True for "gn" without a number of groups, which leaves it to the conversion."""
    return _has_number(spec) and spec.given.isdisjoint({"groups", "size"})


def one_group_asked(spec: NormSpec, groups: Groups | None, channels: int) -> bool:
    """True where one group is what the caller wants, not what the channels leave."""
    if groups is not None or not _has_number(spec):
        return groups is not None or spec.num_groups(2) == 1
    return spec.groups == 1 or (spec.size is not None and spec.size >= channels)


def _has_number(spec: NormSpec) -> bool:
    """True for a kind that takes a number of groups or their size; others have one or C groups."""
    return spec.groups is not None or spec.size is not None


def static_affine(norm: SourceNorm, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """Scale and shift of a group norm that takes the place of a norm, without data.

    Were the statistics of each group in each image those that the stored ones give it, the layer
    would compute what it did: with mean m and variance v of each channel, of the group
    M = mean(m) and V = mean(v + m^2) - M^2::

        weight' = weight * sqrt(V + eps) / sqrt(v + eps_before)
        bias'   = bias + weight * (M - m) / sqrt(v + eps_before)

    How far an image's own statistics differ from these is the error that remains. A norm without
    stored statistics keeps its scale and shift.

    Args:
        norm: the layer that is replaced.
        groups: of the new layer.
        eps: of the new layer.

    Returns:
        weight and bias (C,), float64.
    """
    weight, bias = (
        torch.full((norm.channels,), value, dtype=torch.float64) if own is None
        else own.detach().double().cpu()
        for own, value in ((norm.weight, 1.0), (norm.bias, 0.0))
    )  # fmt: skip
    if norm.mean is None or norm.var is None:
        return weight, bias
    mean, var = norm.mean.double().cpu(), norm.var.double().cpu()
    grouped = mean.view(groups, -1)
    center = grouped.mean(1, keepdim=True)
    spread = (var.view(groups, -1) + (grouped - center) ** 2).mean(1, keepdim=True)
    group_mean = center.expand_as(grouped).reshape(-1)
    group_std = (spread + eps).sqrt().expand_as(grouped).reshape(-1)
    scale = weight / (var + norm.eps).sqrt()
    return scale * group_std, bias + scale * (group_mean - mean)
