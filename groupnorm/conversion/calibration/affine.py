"""The affine in front of a norm, absorbed by the convolution or linear layer before it."""

from __future__ import annotations

import torch
from torch import Tensor


def fold_affine(
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    *,
    transposed_groups: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Weight and bias of the layer whose output is scale * output + shift of the given one.

    For dense, grouped and depthwise convolutions of any rank and for linear layers; also where the
    convolution pads, for the affine comes after it. Computed in float64 and rounded once.

    Args:
        weight: (out_channels, in_channels / groups, *kernel), or (out_features, in_features), or,
            of a transposed convolution, (in_channels, out_channels / groups, *kernel).
        bias: (out_channels,) or None.
        scale: (out_channels,), negative values included, and `shift`.
        shift: see `scale`.
        transposed_groups: for a transposed convolution its `groups`.

    Returns:
        weight and bias in the dtype of `weight`.

    Raises:
        ValueError: the number of output channels is another than that of scale and shift.
    """
    by_output = outputs_first(weight.detach(), transposed_groups)
    channels = by_output.shape[0]
    if scale.shape != (channels,) or shift.shape != (channels,):
        raise ValueError(
            f"the layer has {channels} output channels, scale and shift have shapes "
            f"{tuple(scale.shape)} and {tuple(shift.shape)}"
        )
    factor = scale.to(weight.device, torch.float64)
    folded = by_output.double() * factor.view(-1, *[1] * (by_output.dim() - 1))
    moved = shift.to(weight.device, torch.float64)
    if bias is not None:
        moved = moved + factor * bias.detach().double()
    return (
        _outputs_back(folded, weight, transposed_groups).to(weight.dtype),
        moved.to(weight.dtype),
    )


def outputs_first(weight: Tensor, transposed_groups: int | None) -> Tensor:
    """(out_channels, ...), of a transposed convolution (out_channels, in / groups, *kernel)."""
    if transposed_groups is None:
        return weight
    grouped = weight.view(transposed_groups, -1, *weight.shape[1:])
    return grouped.transpose(1, 2).flatten(0, 1)


def _outputs_back(by_output: Tensor, weight: Tensor, transposed_groups: int | None) -> Tensor:
    if transposed_groups is None:
        return by_output
    grouped = torch.unflatten(by_output, 0, (transposed_groups, weight.shape[1]))
    return grouped.transpose(1, 2).reshape(weight.shape)
