"""New layers in the places of old ones, and networks that get a conversion's layers again."""

from __future__ import annotations

import copy

import torch
from torch import nn

from groupnorm.conversion.report import ConversionReport, ConvertedLayer
from groupnorm.conversion.sources import Refusal, SourceNorm, read_norm
from groupnorm.conversion.walk import (
    carry_over,
    find_norms,
    refuse_old_states,
    swap,
    working_copy,
)
from groupnorm.layers import norm_layer
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
        new = build(source, spec, row.groups, row.eps)[0]
        replacements.append((norms[row.name], new))
    fresh = swap(fresh, replacements)
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


_OF_BATCH_STATISTICS = ("momentum", "batch_per_worker")


def build(
    source: SourceNorm, spec: NormSpec, groups: int, eps: float
) -> tuple[nn.Module, set[str]]:
    """A layer for the place of another, and which of its parameters are that one's own.

    A group norm with other groups is the same layer but for their number.
    """
    old = source.module
    if isinstance(old, nn.GroupNorm):
        regrouped = copy.copy(old)
        regrouped._parameters = dict(old._parameters)
        regrouped.num_groups, regrouped.eps = groups, eps
        regrouped.affine = True
        new: nn.Module = regrouped
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
