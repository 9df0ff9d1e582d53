"""Other norms in the places of a network's norms: what would happen, and doing it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from groupnorm.conversion.calibration.fit import DEFAULT_LIMITS, FitLimits
from groupnorm.conversion.calibration.group_rule import ERROR_BUDGET
from groupnorm.conversion.calibration.options import Options
from groupnorm.conversion.constants.freeze import stored_row
from groupnorm.conversion.example import Example, Forward, Shapes, copied, input_shapes
from groupnorm.conversion.rebuild import build
from groupnorm.conversion.report import (
    NONE_STORED,
    ConversionReport,
    ConvertedLayer,
    raise_for_nothing,
)
from groupnorm.conversion.rules import (
    MIN_CHANNELS,
    Groups,
    check_target,
    groups_asked,
    is_free,
    one_group_asked,
    static_affine,
)
from groupnorm.conversion.sources import Refusal, SourceNorm, check_statistics
from groupnorm.conversion.trial import check_runs
from groupnorm.conversion.walk import (
    Filters,
    FoundNorm,
    changed_keys,
    check_model,
    find_norms,
    irreplaceable,
    read_chosen,
    refuse_old_states,
    registered_in_front,
    skipped_row,
    swap,
    working_copy,
)
from groupnorm.conversion.with_data import batches_for, check_options, convert_with
from groupnorm.counts import counted
from groupnorm.spec import NormSpec

_EPS_OF_NONE = 1e-5


@dataclass(frozen=True)
class _Replacement:
    """A layer ready to take its place, which nothing has been changed for.

    Attributes:
        values: for parameters that the new layer has from the old one, what they will hold.
    """

    norm: FoundNorm
    new: nn.Module
    values: list[tuple[nn.Parameter, Tensor]]
    row: ConvertedLayer


def convert(
    model: nn.Module,
    to: str | NormSpec = "gn",
    *,
    only: Filters = None,
    groups: Groups | None = None,
    min_channels: int = MIN_CHANNELS,
    example: Example | None = None,
    inplace: bool = False,
    data: Any = None,
    forward: Forward | None = None,
    limits: FitLimits = DEFAULT_LIMITS,
    hybrid: float = 1.0,
    refit: bool = True,
    budget: float = ERROR_BUDGET,
    plain: bool = False,
    finetune_steps: int = 0,
    seed: int = 0,
    progress: bool = False,
    reorder: bool = False,
) -> tuple[nn.Module, ConversionReport]:
    """Put group norms in the places of a network's batch norms.

    With `data`, a few dozen to a few hundred inputs without labels, each norm is fitted to what the
    network made of them, and the network keeps most of its accuracy: scale and offset of each
    channel before the norm, which the layer in front takes up, its scale and shift, and the number
    of groups.

    Without data, scale and shift are chosen so that the stored statistics give each layer the
    output that it had (`static_affine`). An image's own group statistics differ from the stored
    ones, and the network loses a part of its accuracy: measure it, and fine-tune.

    Each layer keeps its device, dtype, training flag, `requires_grad`, hooks, eps, and what follows
    the norm within it, as in timm's layers. Parameters remain the same objects, so that with
    `inplace` an optimizer goes on with them; with data, layers in front of norms get new biases
    (`report.new_keys`), which it has to be given. A layer that is used in several places is
    converted once and stays one layer. What cannot be converted is left as it is, with the reason
    in the report; norms that take each sample's own statistics already (group and instance norms)
    are converted if `only` is given. If anything fails, the model is as it was.

    Args:
        model: any network.
        to: "gn" chooses the groups: with data as many as `budget` allows, at least `min_channels`
            channels each, without at least 16. "gn:groups=8" or "gn:size=16" is at
            most so many groups with at least `min_channels` channels each; "ln" is one group. With
            "bn", "syncbn" or "brn" statistics, scale and shift are kept, and so is what the network
            computes in evaluation. A `NormSpec` means what the string does that it was read from.
        only: which norms to convert: the name of a module (itself and all below it), a class, a
            callable of name and module, or a list of these.
        groups: gives the number of groups from a layer's name and channels, whatever
            `min_channels` is.
        min_channels: of each group, where a layer has as many.
        example: an input that a copy of the network runs on, to see what each norm gets, and a
            converted copy, to see that it does: a tensor, a tuple of arguments, or a callable that
            runs the model it gets. `BatchNorm1d` needs it, whose input may be (N, C), where a group
            norm has no positions to normalize over; so do other norms behind a linear layer that
            may get such an input.
        inplace: change the model itself, instead of a copy.
        data: a tensor (N, *), or any iterable of batches, which is gone through once and whose
            batches stay in memory: tensors, lists or tuples that begin with one, or what `forward`
            takes, prepared as in the training. About a quarter is held out, for errors in the
            report, the choice of groups, and whether a layer stays refitted: on other data expect a
            little more than these errors. It runs where the model lies.
        forward: runs a model on a batch: `lambda model, batch: model(batch["a"], batch["b"])`. The
            norms are fitted to what the network computes in it, the error is that of its result.
            It gets whole batches: 16 samples in each are enough, and more take more memory.
        limits: of the scales and offsets of channels before the norms.
        hybrid: below 1, mean and variance are this share of the group's and for the rest constants:
            nearer to the network before, and no plain group norm.
        refit: fit the convolutions in front of norms to give what they gave before.
        budget: error that the norms of the network may add together, where groups are chosen.
        plain: have no layers but plain group norms. Else a norm with no convolution or linear layer
            in front that could take them has scale and offset of each channel itself.
        finetune_steps: of distillation from the network before, at the end: four samples each,
            without labels.
        seed: of all that is drawn, the order of a data loader that shuffles included, unless it has
            a generator of its own.
        progress: print to standard error what is done, with the time left.
        reorder: let channels that move together share a group, where the layers around a norm can
            take that up and it is nearer on held-out data. It helps groups of few channels; the
            report's notes count the layers.

    Returns:
        The converted network and the report.

    Raises:
        NormSpecError: `to` cannot be read.
        ValueError: nothing can be converted (the message has the reasons), `to` keeps nothing of a
            batch norm, `to` is "in" without min_channels=1, `groups` gives no divisor of a layer's
            channels or comes with `min_channels`, `only` chooses nothing, the network does not run
            on the example or the data, before or converted, or gives another output each time, the
            data hardly vary, it cannot be copied, what goes with data comes without it, an option
            is out of its range, or `finetune_steps` has nothing to train or to compare.
        TypeError: the model, `only`, the example, the data or `limits` is none of these.
        RuntimeError: what waits between the layers does not fit in the temporary folder.
    """
    check_model(model)
    batches = None
    options = Options(
        is_free(NormSpec.parse(to)) and groups is None, min_channels,
        limits, hybrid, refit, budget, plain, finetune_steps, seed, progress, reorder,
    )  # fmt: skip
    check_options(to, data, forward, options)
    if data is not None:
        batches = batches_for(model, data, forward, seed)
        example = batches.example if example is None else example
    converted = working_copy(model, inplace)
    replacements, report = _plan(converted, to, only, groups, min_channels, example)
    if not replacements:
        raise_for_nothing("converted", report.skipped)
    if batches is not None:
        norms = [one.norm for one in replacements]
        converted, report = convert_with(batches, converted, norms, report, options)
    else:
        if NormSpec.parse(to).is_group_norm:
            warnings.warn(
                f"{counted(len(report.layers), 'layer')} converted without data: the network loses "
                "a part of its accuracy. Measure it before use, and fine-tune",
                stacklevel=2,
            )
        converted = _apply(converted, replacements)
    refuse_old_states(converted, report)
    return converted, report


def preview(
    model: nn.Module,
    to: str | NormSpec = "gn",
    *,
    only: Filters = None,
    groups: Groups | None = None,
    min_channels: int = MIN_CHANNELS,
    example: Example | None = None,
) -> ConversionReport:
    """What `convert` would do without data; the model is not touched.

    With data it chooses other numbers of groups where `to` leaves them open, and fits the rest.
    Where it would convert nothing and raise, the report has no layers.

    Raises:
        NormSpecError, ValueError, TypeError: as `convert`.
    """
    return _plan(model, to, only, groups, min_channels, example)[1]


def _plan(
    model: nn.Module,
    to: str | NormSpec,
    only: Filters,
    groups: Groups | None,
    min_channels: int,
    example: Example | None,
) -> tuple[list[_Replacement], ConversionReport]:
    """Every layer ready to take its place, and the report; the model is not changed.

    With an example the replacement is tried on a copy.
    """
    spec = NormSpec.parse(to)
    check_target(spec, groups, min_channels)
    norms = find_norms(model, only)
    shapes = None
    if example is not None:
        shapes = input_shapes(model, [norm.module for norm in norms], example)
    impossible = irreplaceable(model, norms)
    replacements, skipped = [], []
    for norm in norms:
        try:
            source = read_chosen(norm, impossible)
            if source.groups is not None and only is None:
                raise Refusal(
                    "takes each sample's own statistics already; name it in `only` to convert it"
                )
            seen = None if shapes is None else shapes[norm.module]
            if spec.is_group_norm:
                front = registered_in_front(model, norm.module, source.channels)
                one = _to_groups(norm, source, spec, groups, min_channels, seen, front)
            else:
                one = _to_stored(norm, source, spec)
        except Refusal as refusal:
            skipped.append(skipped_row(norm, refusal))
        else:
            replacements.append(one)
    if example is not None and replacements:
        _try(model, replacements, example)
    new_keys, removed_keys = changed_keys([(one.norm, one.new) for one in replacements])
    rows = [one.row for one in replacements]
    return replacements, ConversionReport(
        spec.as_given, rows, skipped, new_keys, removed_keys, None
    )


def _apply(model: nn.Module, replacements: list[_Replacement]) -> nn.Module:
    """Give the parameters their values, and the layers their places."""
    with torch.no_grad():
        for replacement in replacements:
            for parameter, values in replacement.values:
                parameter.copy_(values)
    return swap(model, [(one.norm, one.new) for one in replacements])


def _try(model: nn.Module, replacements: list[_Replacement], example: Example) -> None:
    """Run a converted copy of the network.

    Raises:
        ValueError: it does not run, or not with the new layers.
    """
    trial, copies = copied((model, replacements))
    replaced = {one.row.name: (one.norm.module, one.new) for one in copies}
    check_runs(_apply(trial, copies), replaced, example)


def _to_groups(
    norm: FoundNorm,
    source: SourceNorm,
    spec: NormSpec,
    groups: Groups | None,
    min_channels: int,
    shapes: Shapes | None,
    front: nn.Module | None,
) -> _Replacement:
    """A group norm for a layer.

    Raises:
        Refusal: it cannot be one, with these groups.
    """
    if source.mean is not None:
        check_statistics(source)
    name = norm.names[0]
    number, note = groups_asked(name, source.channels, spec, groups, min_channels)
    notes = [note] if note else []
    one_asked = number == 1 and one_group_asked(spec, groups, source.channels)
    if shapes:
        _check_positions(source, one_asked, shapes)
    elif source.may_take_features and not one_asked:
        _check_front(source, front)
        if front is None:
            notes.append("its input may be (N, C)")
    if source.groups == number:
        raise Refusal(f"has {number} groups already")
    eps = _eps(source, spec)
    new, trained = build(source, spec, number, eps)
    values = []
    for key, value in zip(("weight", "bias"), static_affine(source, number, eps), strict=True):
        parameter = getattr(new, key)
        if not value.to(parameter.dtype).isfinite().all():
            raise Refusal(f"its {key} would not be finite in {parameter.dtype}")
        if key in trained:
            values.append((parameter, value.to(parameter)))
        else:
            parameter.data.copy_(value)
    return _Replacement(norm, new, values, _row(norm, source, new, number, eps, notes, shapes))


def _to_stored(norm: FoundNorm, source: SourceNorm, spec: NormSpec) -> _Replacement:
    """A norm with stored statistics for another; what it computes in evaluation is kept.

    Raises:
        Refusal: the layer stores none.
    """
    if source.mean is None:
        raise Refusal(f"stores no statistics for {spec}")
    new = build(source, spec, 0, _eps(source, spec))[0]
    row = stored_row(norm, source, new)
    notes = [f"eps was {source.eps:g}"] if source.eps != row.eps else []
    if getattr(source.module, "momentum", new.momentum) is None:
        notes.append(f"momentum was None, the average of all batches, and is {new.momentum:g}")
    if getattr(source.module, "process_group", None) is not None:
        notes.append("its process group is not kept")
    return _Replacement(norm, new, [], replace(row, note=", ".join(notes)))


def _check_positions(source: SourceNorm, one_asked: bool, shapes: Shapes) -> None:
    """Check that a group norm has positions to normalize over.

    One group over (N, C) features is a layer norm, which is allowed where it is asked for.

    Raises:
        Refusal: a channel has one value in each sample.
    """
    for shape in shapes:
        positions = torch.Size(shape[2:]).numel()
        if positions > 1 or (one_asked and source.channels > 1):
            continue
        raise Refusal(f"one value per channel and sample, input {shape}")


def _check_front(source: SourceNorm, front: nn.Module | None) -> None:
    """Check what is known without an example of a norm that may get (N, C) features.

    Raises:
        Refusal: it is a `BatchNorm1d`, or a linear layer stands in front of it.
    """
    linear = isinstance(front, nn.Linear)
    if linear or isinstance(source.module, nn.BatchNorm1d):
        where = " of the linear layer in front" if linear else ""
        raise Refusal(
            f"its input{where} may be (N, C), one value per channel and sample; give an example "
            "input, or ask for one group"
        )


def _eps(source: SourceNorm, spec: NormSpec) -> float:
    """The eps of the new layer: the one asked for, or the old one's, unless that is 0."""
    return spec.own_eps or source.eps or _EPS_OF_NONE


def _row(
    norm: FoundNorm,
    source: SourceNorm,
    new: nn.Module,
    groups: int,
    eps: float,
    notes: list[str],
    shapes: Shapes | None,
) -> ConvertedLayer:
    if source.eps != eps:
        notes.append(f"eps was {source.eps:g}")
    if shapes is not None and len(shapes) != 1:
        notes.append(f"ran {len(shapes)} times" if shapes else "did not run on the example")
    stored = source.mean is not None
    affine = "from statistics" if stored else "copied"
    if source.weight is None:
        affine += ", not trained"
    return replace(
        stored_row(norm, source, new),
        groups=groups,
        eps=eps,
        affine=affine,
        statistics="in scale and shift" if stored else NONE_STORED,
        trainable=source.trainable,
        note=", ".join(notes),
    )
