"""Norms as constants, and batch norms back from them."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from groupnorm.conversion.report import (
    ConversionReport,
    ConvertedLayer,
    SkippedLayer,
    raise_for_nothing,
)
from groupnorm.conversion.sources import Refusal, SourceNorm, check_statistics
from groupnorm.conversion.walk import (
    Filters,
    FoundNorm,
    carry_over,
    changed_keys,
    find_norms,
    irreplaceable,
    read_chosen,
    skipped_row,
    swap,
    working_copy,
)
from groupnorm.layers import norm_layer

_STATE = ("weight", "bias", "running_mean", "running_var")
_ORIGINAL = "frozen_from"


def freeze(
    model: nn.Module, *, only: Filters = None, inplace: bool = False
) -> tuple[nn.Module, ConversionReport]:
    """Make the batch norms of a network constants, in training as in evaluation.

    They become `FrozenBatchNorm`, whose state has the keys of torchvision's and detectron2's. Each
    remembers the layer that it was made from, so that `unfreeze` gives back that layer: its class,
    momentum, counter and the same parameters.

    Args:
        model: and only, inplace: as in `convert`.

    Returns:
        The network and the report.

    Raises:
        ValueError: nothing can be frozen; the message has the reasons. As `convert`.
        TypeError: as `convert`.
    """
    frozen = working_copy(model, inplace)
    norms = find_norms(frozen, only)
    impossible = irreplaceable(frozen, norms)
    replacements, rows, skipped = [], [], []
    for norm in norms:
        try:
            source = read_chosen(norm, impossible)
            if not isinstance(norm.module, _BatchNorm):
                raise Refusal("is no batch norm")
            check_statistics(source)
        except Refusal as refusal:
            skipped.append(skipped_row(norm, refusal))
            continue
        new = frozen_layer(source)
        vars(new)[_ORIGINAL] = norm.module
        replacements.append((norm, new))
        rows.append(stored_row(norm, source, new))
    return _finish(frozen, "frozenbn", replacements, rows, skipped)


def unfreeze(
    model: nn.Module, *, only: Filters = None, inplace: bool = False
) -> tuple[nn.Module, ConversionReport]:
    """Give a network's frozen batch norms back what they were frozen from.

    What `freeze` made is the same layer again, with the values that the frozen one has now. Frozen
    norms of other origin, torchvision's among them, become `groupnorm.layers.BatchNorm` with
    scale and shift that require a gradient. A frozen norm whose scale or shift was changed is left
    where the layer before has none that could take it up.

    Args:
        model: and only, inplace: as in `convert`.

    Returns:
        The network and the report.

    Raises:
        ValueError: the network has no frozen batch norm that was trained. As `convert`.
        TypeError: as `convert`.
    """
    thawed = working_copy(model, inplace)
    norms = find_norms(thawed, only)
    impossible = irreplaceable(thawed, norms)
    replacements, rows, skipped = [], [], []
    for norm in norms:
        try:
            source = read_chosen(norm, impossible)
            if not source.frozen:
                raise Refusal("is no frozen batch norm")
            check_statistics(source)
            new = _thawed_layer(source)
        except Refusal as refusal:
            skipped.append(skipped_row(norm, refusal))
            continue
        replacements.append((norm, new))
        rows.append(stored_row(norm, source, new))
    if replacements:
        for norm, new in replacements:
            _take_values(new, norm.module)
            carry_over(norm.module, new)
    return _finish(thawed, "bn", replacements, rows, skipped)


def _thawed_layer(source: SourceNorm) -> nn.Module:
    """The layer that a norm was frozen from, or a new one.

    Raises:
        Refusal: it has no scale or shift to hold that of the frozen norm.
    """
    new: nn.Module | None = vars(source.module).get(_ORIGINAL)
    if new is None:
        return norm_layer("bn")(source.channels, eps=source.eps, **source.arguments)
    for key, neutral in (("weight", 1), ("bias", 0)):
        value = getattr(source, key)
        if new._parameters.get(key) is None and value is not None and (value != neutral).any():
            raise Refusal(f"its {key} was changed, and the layer that it was frozen from has none")
    return new


def frozen_layer(source: SourceNorm) -> nn.Module:
    """A `FrozenBatchNorm` that computes what a norm with stored statistics does in evaluation.

    It has what follows the norm within its layer, its hooks and its training flag.
    """
    new = norm_layer("frozenbn")(source.channels, eps=source.eps, **source.arguments)
    assert source.mean is not None
    assert source.var is not None
    state = source.weight, source.bias, source.mean, source.var
    for key, value in zip(_STATE, state, strict=True):
        if value is not None:
            new._buffers[key] = value.detach().clone()
    carry_over(source.module, new)
    return new


def stored_row(norm: FoundNorm, source: SourceNorm, new: nn.Module) -> ConvertedLayer:
    """The report's row of a norm that keeps statistics, scale and shift."""
    return ConvertedLayer(
        name=norm.names[0],
        aliases=list(norm.names[1:]),
        source=type(norm.module).__name__,
        target=type(new).__name__,
        channels=source.channels,
        groups=0,
        source_eps=source.eps,
        eps=float(getattr(new, "eps", source.eps)),
        affine="kept",
        statistics="kept",
        trainable=any(p.requires_grad for p in new.parameters(recurse=False)),
        error=None,
        note="",
    )


def _finish(
    model: nn.Module,
    to: str,
    replacements: list[tuple[FoundNorm, nn.Module]],
    rows: list[ConvertedLayer],
    skipped: list[SkippedLayer],
) -> tuple[nn.Module, ConversionReport]:
    if not replacements:
        raise_for_nothing("changed", skipped)
    report = ConversionReport(to, rows, skipped, *changed_keys(replacements), None)
    return swap(model, replacements), report


def _take_values(new: nn.Module, frozen: nn.Module) -> None:
    """Give a batch norm the values, device and dtype of a frozen one."""
    with torch.no_grad():
        for key in _STATE:
            value = getattr(frozen, key)
            own = new._parameters.get(key)
            if own is not None:
                own.data = value.detach().clone()
            elif key in new._buffers:
                new._buffers[key] = value.detach().clone()
        counter = new._buffers.get("num_batches_tracked")
        if counter is not None:
            new._buffers["num_batches_tracked"] = counter.to(value.device)
