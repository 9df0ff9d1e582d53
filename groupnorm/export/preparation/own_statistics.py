"""Norms with each sample's own statistics, as far as possible group norms and nothing else."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import nn

from groupnorm import layers
from groupnorm.conversion.calibration.affine import fold_affine
from groupnorm.conversion.constants.fold import check_finite, layer_for, set_weights
from groupnorm.conversion.constants.producers import LinearLayer, find_producers
from groupnorm.conversion.example import Example, Shapes, input_shapes
from groupnorm.conversion.sources import Refusal, SourceNorm
from groupnorm.conversion.walk import (
    FoundNorm,
    carry_over,
    find_norms,
    irreplaceable,
    parameter_owners,
    read_chosen,
    swap,
)
from groupnorm.export.preparation.constants import batch_norm_of, followed, unbatched
from groupnorm.export.preparation.report import FOLDED, KEPT, PLAIN, PreparedLayer
from groupnorm.layers.with_activation import fused_activation


def simplify_norms(network: nn.Module, example: Example) -> tuple[nn.Module, list[PreparedLayer]]:
    """Make group norms of a network's norms with each sample's own statistics; it is changed.

    Instance norms are group norms of one channel per group. Norms with an activation that
    `groupnorm.group_norm` has become `GroupNorm` with it, others a group norm and the activation.
    The scale and offset in front of a `CalibratedGroupNorm` go into the layer in front, or become
    a batch norm. Layer norms, filter response norms and EvoNorm consist of ordinary operators and
    stay.

    Args:
        network: in evaluation mode.
        example: an input, as in `groupnorm.convert`.

    Returns:
        The network, or what takes its place where it is a norm; and a row for each norm that was
        no group norm alone.

    Raises:
        ValueError: the network does not run on the example.
    """
    norms = find_norms(network, None)
    impossible = irreplaceable(network, norms)
    shapes = input_shapes(network, [norm.module for norm in norms], example)
    calibrated = [n.module for n in norms if isinstance(n.module, layers.CalibratedGroupNorm)]
    producers = find_producers(network, calibrated, example) if calibrated else {}
    names = {module: name for name, module in network.named_modules()}
    owners = parameter_owners(network)
    replacements, rows = [], []
    for norm in norms:
        module, name = norm.module, norm.names[0]
        try:
            if isinstance(module, layers.CalibratedGroupNorm):
                if module in impossible:
                    raise Refusal(impossible[module])
                producer = producers[module]
                new, row = _of_calibrated(norm, producer, shapes[module], names, owners)
            else:
                found = _of_other(norm, impossible, shapes[module])
                if found is None:
                    continue
                new, row = found
        except Refusal as refusal:
            rows.append(PreparedLayer(name, KEPT, f"{type(module).__name__}: {refusal}"))
            continue
        carry_over(module, new)
        new.eval()
        replacements.append((norm, new))
        rows.append(row)
    return swap(network, replacements), rows


def group_norms(network: nn.Module) -> list[tuple[FoundNorm, SourceNorm]]:
    """The group norms of a network that can be replaced, and do nothing but normalize.

    An activation of `groupnorm.group_norm` may follow.
    """
    norms = find_norms(network, None)
    impossible = irreplaceable(network, norms)
    found = []
    for norm in norms:
        try:
            source = read_chosen(norm, impossible)
        except Refusal:
            continue
        alone = source.drop is None and source.act is None
        if isinstance(norm.module, nn.GroupNorm) and alone:
            found.append((norm, source))
    return found


def _of_other(
    norm: FoundNorm, impossible: dict[nn.Module, str], shapes: Shapes
) -> tuple[nn.Module, PreparedLayer] | None:
    """A layer for the place of a norm, and the row; None where there is nothing to do.

    Raises:
        Refusal: it stays.
    """
    module, name, kind = norm.module, norm.names[0], type(norm.module).__name__
    if "running_mean" in module._buffers and module._buffers["running_mean"] is not None:
        return None  # a constant, or what could not be folded
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return None
    if isinstance(module, layers.LayerNorm2d | layers.FilterResponseNorm | layers.EvoNormS0):
        raise Refusal("written in ordinary operators")
    try:
        source = read_chosen(norm, impossible)
    except Refusal:
        if isinstance(module, nn.GroupNorm):
            return None  # the reason is given where it would get its form
        raise
    alone = source.drop is None and source.act is None
    if isinstance(module, nn.GroupNorm) and alone:
        return None
    if any(unbatched(module, len(shape)) for shape in shapes):
        raise Refusal(f"its input {shapes[0]} has no batch dimension")
    return group_norm_of(source), PreparedLayer(name, PLAIN, f"{kind} to group norm")


def group_norm_of(source: SourceNorm) -> nn.Module:
    """A new `GroupNorm` with the values of a norm, and what follows it within its layer."""
    assert source.groups is not None
    activation = getattr(source.module, "activation", None)
    drop, act = source.drop, source.act
    if activation is None and act is not None and followed(act, drop, None) is act:
        activation = fused_activation(act)
        act = act if activation is None else None
    affine = source.weight is not None or source.bias is not None
    new = layers.GroupNorm(
        source.groups, source.channels, source.eps, affine,
        source.device, source.dtype, bias=source.bias is not None, activation=activation,
    )  # fmt: skip
    with torch.no_grad():
        for own, value in ((new.weight, source.weight), (new.bias, source.bias)):
            if value is not None:
                own.copy_(value)
                own.requires_grad_(value.requires_grad)
    return followed(new.eval(), drop, act)


def _of_calibrated(
    norm: FoundNorm,
    producer: LinearLayer | str,
    shapes: Shapes,
    names: Mapping[nn.Module, str],
    owners: Mapping[int, int],
) -> tuple[nn.Module, PreparedLayer]:
    """A group norm for a `CalibratedGroupNorm`, whose scale and offset go in front of it.

    Raises:
        Refusal: it stays.
    """
    module = norm.module
    assert isinstance(module, layers.CalibratedGroupNorm)
    if module.hybrid < 1:
        raise Refusal("mixes stored statistics in; written in ordinary operators")
    weight, bias = module.weight, module.bias
    source = SourceNorm(
        module, module.num_channels, module.eps, module.num_groups, weight, bias, None, None,
        getattr(module, "drop", None), getattr(module, "act", None), weight.device, weight.dtype,
    )  # fmt: skip
    new = group_norm_of(source)
    name, kind = norm.names[0], type(module).__name__
    scale, shift = module.input_weight, module.input_bias
    if scale is None or shift is None:
        return new, PreparedLayer(name, PLAIN, f"{kind} to group norm")
    try:
        layer = layer_for(source, producer, names, owners)
        transposed = layer.groups if isinstance(layer, nn.modules.conv._ConvTransposeNd) else None
        folded = fold_affine(
            layer.weight, layer.bias, scale.detach(), shift.detach(), transposed_groups=transposed
        )
        check_finite(names[layer], *folded)
    except Refusal as refusal:
        one, zero = torch.ones_like(scale), torch.zeros_like(scale)
        constant = SourceNorm(
            module, source.channels, 0.0, None, scale, shift, zero, one, None, None,
            scale.device, scale.dtype,
        )  # fmt: skip
        affine = batch_norm_of(constant, shapes)
        if isinstance(affine, str):
            raise Refusal(affine) from None
        both = nn.Sequential(OrderedDict(affine=affine, norm=new))
        return both, PreparedLayer(name, PLAIN, f"{kind} to batch and group norm: {refusal}")
    set_weights(layer, *folded)
    return new, PreparedLayer(name, FOLDED, f"scale and offset of {kind} into {names[layer]}")
