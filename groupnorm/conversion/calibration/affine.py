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
    by_output = _outputs_first(weight.detach(), transposed_groups)
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


def permute_outputs(
    weight: Tensor,
    bias: Tensor | None,
    order: Tensor,
    *,
    transposed_groups: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of the layer whose output channel i is the channel order[i] of the given one.

    Of a dense or linear layer. A depthwise convolution has its inputs in the new order as well; a
    grouped one only where the order leaves every channel in its group.

    Args:
        weight: and bias and transposed_groups, as in `fold_affine`.
        order: a permutation (out_channels,).
    """
    by_output = _outputs_first(weight.detach(), transposed_groups)[order]
    permuted = _outputs_back(by_output, weight, transposed_groups)
    return permuted, None if bias is None else bias.detach()[order]


def permute_inputs(weight: Tensor, order: Tensor, *, transposed: bool = False) -> Tensor:
    """Weight of the dense or linear layer that takes input channels in a new order.

    Args:
        weight: as in `fold_affine`, of a layer with one group.
        order: new input channel i is the old channel order[i].
        transposed: whether it is a transposed convolution.
    """
    return weight.detach().index_select(0 if transposed else 1, order)


def _outputs_first(weight: Tensor, transposed_groups: int | None) -> Tensor:
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
