"""Group norms as constants, with what that costs."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groupnorm.conversion.constants.freeze import frozen_layer, stored_row
from groupnorm.conversion.example import (
    Forward,
    check_batches,
    evaluating,
    first_input,
    floats_in,
    run_batch,
)
from groupnorm.conversion.finite import NotFiniteError, all_finite, check_batch, with_positions
from groupnorm.conversion.output_error import OutputError
from groupnorm.conversion.pooled import Pooled, add_to
from groupnorm.conversion.report import ConversionReport, raise_for_nothing
from groupnorm.conversion.sources import Refusal, SourceNorm
from groupnorm.conversion.walk import (
    Filters,
    changed_keys,
    find_norms,
    irreplaceable,
    read_chosen,
    skipped_row,
    swap,
    working_copy,
)


def freeze_groups(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    only: Filters = None,
    forward: Forward | None = None,
) -> tuple[nn.Module, ConversionReport]:
    """A copy of a network whose group norms are constants, fitted to data, for fast inference.

    Each group norm, or instance norm without stored statistics, becomes a `FrozenBatchNorm`: in
    each channel the line through its inputs and outputs on the batches with the least squared
    error. What an image's own statistics do to its output is lost; the report has, measured on the
    batches, each layer's error and that of the network's output. Measure the task's metric too.
    `fold` then takes the constants into the convolutions.

    Args:
        model: runs in evaluation mode.
        batches: tensors, or lists or tuples that begin with one, as data loaders yield them; gone
            through twice.
        only: which norms, as in `convert`.
        forward: runs a network on a batch of another kind: `lambda model, batch: ...`.

    Returns:
        The network and the report.

    Raises:
        ValueError: nothing can be frozen (the message has the reasons), there are no batches, or
            the network does not run on them or gives values that are not finite (the message names
            the first layer and sample).
        TypeError: `only` is none of what `convert` takes, `batches` are one tensor or can be gone
            through once only, or a batch needs `forward`.
    """
    check_batches(batches)
    if iter(batches) is batches:
        raise TypeError("the batches are gone through twice: give a list or a data loader")
    frozen = working_copy(model)
    norms = find_norms(frozen, only)
    impossible = irreplaceable(frozen, norms)
    sources, skipped = {}, []
    for norm in norms:
        try:
            source = read_chosen(norm, impossible)
            if source.groups is None:
                raise Refusal("has stored statistics; freeze makes it constant")
            if getattr(norm.module, "activation", None) is not None:
                raise Refusal("its activation is part of its kernel")
            sources[norm] = source
        except Refusal as refusal:
            skipped.append(skipped_row(norm, refusal))
    if not sources:
        raise_for_nothing("changed", skipped)
    fits = _fits(frozen, sources.values(), batches, forward)
    replacements, rows = [], []
    for norm, source in sources.items():
        fit = fits.get(norm.module)
        if fit is None:
            skipped.append(skipped_row(norm, Refusal("it does not run on the batches")))
            continue
        new = frozen_layer(_constants(source, fit))
        replacements.append((norm, new))
        rows.append(replace(stored_row(norm, source, new), affine="fitted", statistics="fitted",
                            error=_error(fit)))  # fmt: skip
    keys = changed_keys(replacements)
    frozen = swap(frozen, replacements)
    # of a copy, for a network may change as it runs
    error = _output_error(working_copy(model), frozen, batches, forward)
    return frozen, ConversionReport("frozenbn", rows, skipped, *keys, error)


def _fits(
    model: nn.Module,
    sources: Iterable[SourceNorm],
    batches: Iterable[Any],
    forward: Forward | None,
) -> dict[nn.Module, Pooled]:
    """Sums over the inputs and outputs of each norm, of all batches together.

    Raises:
        ValueError: there are no batches, or none has values.
        NotFiniteError: values are not finite, or too large to square.
    """
    run = functools.partial(run_batch, forward=forward)
    fits: dict[nn.Module, Pooled] = {}
    handles = []
    for source in sources:

        def note(
            module: nn.Module,
            inputs: tuple[Any, ...],
            named: dict[str, Any],
            source: SourceNorm = source,
        ) -> None:
            x = first_input(inputs, named)
            if x is None or x.numel() == 0:
                return
            assert source.groups is not None
            x = x.double()
            weight, bias = (
                None if own is None else own.double() for own in (source.weight, source.bias)
            )
            y = F.group_norm(x, source.groups, weight, bias, source.eps)
            add_to(fits, module, Pooled.of(x, y))

        handles.append(source.module.register_forward_pre_hook(note, with_kwargs=True))
    try:
        with evaluating(model):
            for batch, position in with_positions(batches):
                run(model, batch)
                # at once, for a loader that shuffles has other batches the next time
                if not all_finite([(fit.mean, fit.about_mean) for fit in fits.values()]):
                    check_batch("the network", model, batch, run, position)
                    raise NotFiniteError(
                        "a group norm gets or gives values that are too large to square, in batch "
                        f"{position.batch} of the data, counted from 0: check the data, how they "
                        "are normalized, and the network on them"
                    )
    finally:
        for handle in handles:
            handle.remove()
    if not fits:
        raise ValueError("there are no batches that the group norms run on")
    return fits


def _slope(fit: Pooled) -> Tensor:
    """Least squares in each channel: what one unit of the input adds to the output."""
    (xx, xy), _ = fit.about_mean
    return torch.where(xx > 0, xy / xx.clamp_min(1e-300), 0.0)


def _error(fit: Pooled) -> float:
    """What the lines leave of the output, over what there is about each channel's mean."""
    (_, xy), (_, yy) = fit.about_mean
    left = (yy - _slope(fit) * xy).clamp_min(0).sum()
    return float(left / yy.sum().clamp_min(1e-300))


def _constants(source: SourceNorm, fit: Pooled) -> SourceNorm:
    """The norm with stored statistics that computes the lines."""
    var = fit.about_mean[0, 0] / fit.values
    weight = _slope(fit) * (var + source.eps).sqrt()
    mean, bias = fit.mean
    weight, bias, mean, var = (v.to(source.dtype) for v in (weight, bias, mean, var))
    return replace(source, groups=None, weight=weight, bias=bias, mean=mean, var=var)


def _output_error(
    model: nn.Module, frozen: nn.Module, batches: Iterable[Any], forward: Forward | None
) -> float | None:
    """`OutputError` on the batches.

    Raises:
        ValueError: there is no output of floating-point values.
        NotFiniteError: an output is not finite.
    """
    run = functools.partial(run_batch, forward=forward)
    error = OutputError()
    values = 0
    with evaluating(model), evaluating(frozen):
        for batch, position in with_positions(batches):
            outputs = [run(one, batch) for one in (model, frozen)]
            if not all_finite(outputs):
                for name, one in (("the network", model), ("the frozen network", frozen)):
                    check_batch(name, one, batch, run, position)
                raise NotFiniteError("the network's output is not finite on the batches")
            values += sum(tensor.numel() for tensor in floats_in(outputs[0]))
            error.add(*outputs)
    if not values:
        raise ValueError("the network has no output of floating-point values on the batches")
    return error.value
