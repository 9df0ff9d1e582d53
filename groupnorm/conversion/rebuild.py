"""New layers in the places of old ones, and networks that get a conversion's layers again."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from groupnorm.conversion.constants.producers import LINEAR_LAYERS
from groupnorm.conversion.report import ConversionReport, ConvertedLayer
from groupnorm.conversion.sources import Refusal, SourceNorm, read_norm
from groupnorm.conversion.walk import (
    carry_over,
    find_norms,
    refuse_old_states,
    swap,
    working_copy,
)
from groupnorm.layers import CalibratedGroupNorm, norm_layer
from groupnorm.layers.with_activation import followed_by
from groupnorm.spec import NormSpec


def rebuild(model: nn.Module, report: ConversionReport) -> nn.Module:
    """A copy of a new network with the layers that a conversion gave to one like it.

    Its values are the new network's own, not those of the conversion: it is made to load the state
    dict of the converted network::

        converted, report = convert(trained)
        report.save("report.json")
        torch.save(converted.state_dict(), "converted.pt")
        ...
        fresh = rebuild(make_model(), ConversionReport.load("report.json"))
        fresh.load_state_dict(torch.load("converted.pt"))

    Raises:
        ValueError: the network has no such layer by a name of the report, or one of other channels;
            the report has numbers of groups that these do not divide into, or is one of `freeze` or
            `fold`, which are done again instead.
    """
    spec = NormSpec.parse(report.to)
    if not (spec.is_group_norm or spec.uses_batch_statistics):
        raise ValueError(f"a report of a conversion to {spec} is none of `convert`")
    fresh = working_copy(model)
    norms = {name: norm for norm in find_norms(fresh, None) for name in norm.names}
    replacements = []
    for row in report.layers:
        if row.name not in norms:
            raise ValueError(f"the network has no norm {row.name!r}, which the report has")
        try:
            source = read_norm(norms[row.name].module, norms[row.name].near)
        except Refusal as error:
            raise ValueError(f"{row.name}: {error}") from None
        if source.channels != row.channels:
            raise ValueError(
                f"{row.name} has {row.channels} channels in the report, {source.channels} in the "
                "network"
            )
        _check_groups(row, spec)
        own_affine = row.in_front == "itself"
        new = build(source, spec, row.groups, row.eps, own_affine, row.hybrid)[0]
        replacements.append((norms[row.name], new))
    fresh = swap(fresh, replacements)
    add_biases(fresh, report.new_keys)
    refuse_old_states(fresh, report)
    return fresh


def _check_groups(row: ConvertedLayer, spec: NormSpec) -> None:
    """Check the number of groups, which a file has."""
    if not spec.is_group_norm:
        fits = row.groups == 0
    else:
        fits = row.groups >= 1 and row.channels % row.groups == 0
    if not fits:
        raise ValueError(
            f"{row.name}: {row.groups} groups of {row.channels} channels do not go with {spec}"
        )


def add_biases(model: nn.Module, keys: Iterable[str]) -> None:
    """Give the linear layers that these keys of a state dict name a bias of 0, if they have none.

    Raises:
        ValueError: the network has no such layer.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    for key in keys:
        name, _, value = key.rpartition(".")
        layer = modules.get(name)
        if layer is None:
            raise ValueError(f"the network has no layer {name!r}, which the report has")
        if value == "bias" and isinstance(layer, LINEAR_LAYERS) and layer.bias is None:
            outputs = getattr(layer, "out_channels", None) or getattr(layer, "out_features", None)
            assert isinstance(outputs, int)
            weight = layer.weight
            assert isinstance(weight, Tensor)
            layer.bias = nn.Parameter(weight.new_zeros(outputs), weight.requires_grad)


_OF_BATCH_STATISTICS = ("momentum", "batch_per_worker")


def build(
    source: SourceNorm,
    spec: NormSpec,
    groups: int,
    eps: float,
    own_affine: bool = False,
    hybrid: float = 1.0,
) -> tuple[nn.Module, set[str]]:
    """A layer for the place of another, and which of its parameters are that one's own.

    A group norm with other groups is the same layer but for their number.

    Args:
        source: what is replaced.
        spec: of the new layer.
        groups: of the new layer; 0 for one without groups.
        eps: of the new layer.
        own_affine: have scale and offset of each channel before the norm, in a
            `CalibratedGroupNorm`.
        hybrid: as in `CalibratedGroupNorm`.
    """
    old = source.module
    if own_affine or hybrid < 1:
        make = followed_by(CalibratedGroupNorm, source.drop, source.act)
        new: nn.Module = make(
            groups, source.channels, eps, source.device, source.dtype,
            input_affine=own_affine, hybrid=hybrid, activation=getattr(old, "activation", None),
        )  # fmt: skip
        for parameter in (new.input_weight, new.input_bias):
            if isinstance(parameter, nn.Parameter):
                parameter.requires_grad_(source.trainable)
    elif isinstance(old, nn.GroupNorm):
        regrouped = copy.copy(old)
        regrouped._parameters = dict(old._parameters)
        regrouped.num_groups, regrouped.eps = groups, eps
        regrouped.affine = True
        new = regrouped
    else:
        exact = NormSpec("gn", groups=groups) if groups else spec
        new = norm_layer(exact)(source.channels, eps=eps, **source.arguments)
        for key in _OF_BATCH_STATISTICS:
            if hasattr(new, key) and getattr(old, key, None) is not None:
                setattr(new, key, getattr(old, key))
    trained = set()
    for key in ("weight", "bias"):
        own = getattr(source, key)
        if isinstance(own, nn.Parameter):
            setattr(new, key, own)
            trained.add(key)
        else:
            value = torch.full((source.channels,), 1.0 if key == "weight" else 0.0)
            value = (value if own is None else own.detach().clone()).to(source.device, source.dtype)
            setattr(new, key, nn.Parameter(value, requires_grad=False))
    for key in ("running_mean", "running_var", "num_batches_tracked"):
        if key in new._buffers and old._buffers.get(key) is not None:
            new._buffers[key] = old._buffers[key]
    carry_over(old, new)
    return new, trained
