"""Other norms in the places of a network's norms: what would happen, and doing it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from groupnorm.conversion.constants.freeze import stored_row
from groupnorm.conversion.example import Example, input_shapes
from groupnorm.conversion.rebuild import build, refuse_old_states
from groupnorm.conversion.report import ConversionReport, ConvertedLayer, raise_for_nothing
from groupnorm.conversion.rules import MIN_CHANNELS, groups_asked, is_free, static_affine
from groupnorm.conversion.sources import (
    Refusal,
    SourceNorm,
    check_statistics,
)
from groupnorm.conversion.walk import (
    Filters,
    FoundNorm,
    changed_keys,
    find_norms,
    irreplaceable,
    read_chosen,
    skipped_row,
    swap,
    working_copy,
)
from groupnorm.spec import NormSpec

_EPS_OF_NONE = 1e-5
Groups = Callable[[str, int], int]


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
) -> tuple[nn.Module, ConversionReport]:
    """Put group norms in the places of a network's batch norms, without data.

    Scale and shift are chosen so that the stored statistics give each layer the output that it had
    (`static_affine`). An image's own group statistics differ from the stored ones, and the network
    loses a part of its accuracy: measure it, and fine-tune.

    Each layer keeps its device, dtype, training flag, `requires_grad`, hooks, eps, and what follows
    the norm within it, as in timm's layers. Parameters remain the same objects, so that with
    `inplace` an optimizer goes on with them. A layer that is used in several places is converted
    once and stays one layer. What cannot be converted is left as it is, with the reason in the
    report; norms that take each sample's own statistics already (group and instance norms) are
    converted if `only` is given. If anything fails, the model is as it was.

    Args:
        model: any network.
        to: "gn" chooses the groups: at least 16 channels each. "gn:groups=8" or "gn:size=16" is at
            most so many groups with at least `min_channels` channels each; "ln" is one group. With
            "bn", "syncbn" or "brn" statistics, scale and shift are kept, and so is what the network
            computes in evaluation.
        only: which norms to convert: the name of a module (itself and all below it), a class, a
            callable of name and module, or a list of these.
        groups: gives the number of groups from a layer's name and channels.
        min_channels: of each group, where a layer has as many.
        example: an input that a copy of the network runs on once, to see what each norm gets: a
            tensor, a tuple of arguments, or a callable that runs the model it gets. `BatchNorm1d`
            needs it, whose input may be (N, C), where a group norm has no positions to normalize
            over.
        inplace: change the model itself, instead of a copy.

    Returns:
        The converted network and the report.

    Raises:
        NormSpecError: `to` cannot be read.
        ValueError: nothing can be converted (the message has the reasons), `to` keeps nothing of a
            batch norm, `only` chooses nothing, the example does not run, or the network cannot be
            copied.
        TypeError: `only` is none of these.
    """
    converted = working_copy(model, inplace)
    replacements, report = _plan(converted, to, only, groups, min_channels, example)
    if not replacements:
        raise_for_nothing("converted", report.skipped)
    if NormSpec.parse(to).is_group_norm:
        warnings.warn(
            f"{len(report.layers)} layers were converted without data: the network loses a part "
            "of its accuracy. Measure it before use, and fine-tune",
            stacklevel=2,
        )
    with torch.no_grad():
        for replacement in replacements:
            for parameter, values in replacement.values:
                parameter.copy_(values)
    converted = swap(converted, [(one.norm, one.new) for one in replacements])
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
    """What `convert` would do with these arguments; the model is not touched.

    Where `convert` would convert nothing and raise, the report has no layers.

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
    """Every layer ready to take its place, and the report; the model is not changed."""
    spec = NormSpec.parse(to)
    _check_target(spec, groups, min_channels)
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
                one = _to_groups(norm, source, to, groups, min_channels, seen)
            else:
                one = _to_stored(norm, source, spec)
        except Refusal as refusal:
            skipped.append(skipped_row(norm, refusal))
        else:
            replacements.append(one)
    new_keys, removed_keys = changed_keys([(one.norm, one.new) for one in replacements])
    rows = [one.row for one in replacements]
    return replacements, ConversionReport(str(to), rows, skipped, new_keys, removed_keys, None)


def _check_target(spec: NormSpec, groups: Groups | None, min_channels: int) -> None:
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


def _to_groups(
    norm: FoundNorm,
    source: SourceNorm,
    to: str | NormSpec,
    groups: Groups | None,
    min_channels: int,
    shapes: list[tuple[int, ...]] | None,
) -> _Replacement:
    """A group norm for a layer.

    Raises:
        Refusal: it cannot be one, with these groups.
    """
    if source.mean is not None:
        check_statistics(source)
    name = norm.names[0]
    number, note = groups_asked(name, source.channels, to, groups, min_channels)
    one_asked = number == 1 and not is_free(to) and not note
    _check_positions(source, number, one_asked, shapes)
    if source.groups == number:
        raise Refusal(f"has {number} groups already")
    eps = _eps(source, NormSpec.parse(to))
    new, trained = build(source, NormSpec.parse(to), number, eps)
    values = []
    for key, value in zip(("weight", "bias"), static_affine(source, number, eps), strict=True):
        parameter = getattr(new, key)
        if not value.to(parameter.dtype).isfinite().all():
            raise Refusal(f"its {key} would not be finite in {parameter.dtype}")
        if key in trained:
            values.append((parameter, value.to(parameter)))
        else:
            parameter.data.copy_(value)
    return _Replacement(norm, new, values, _row(norm, source, new, number, eps, note, shapes))


def _to_stored(norm: FoundNorm, source: SourceNorm, spec: NormSpec) -> _Replacement:
    """A norm with stored statistics for another; what it computes in evaluation is kept.

    Raises:
        Refusal: the layer stores none.
    """
    if source.mean is None:
        raise Refusal(f"stores no statistics for {spec}")
    new = build(source, spec, 0, _eps(source, spec))[0]
    return _Replacement(norm, new, [], stored_row(norm, source, new))


def _check_positions(
    source: SourceNorm, groups: int, one_asked: bool, shapes: list[tuple[int, ...]] | None
) -> None:
    """Check that a group norm has positions to normalize over, as far as it is known.

    One group over (N, C) features is a layer norm, which is allowed where it is asked for.

    Raises:
        Refusal: a channel has one value in each sample, or may have.
    """
    if not shapes:  # no example, or the norm did not run on it
        if isinstance(source.module, nn.BatchNorm1d) and not one_asked:
            raise Refusal(
                "its input may be (N, C), one value per channel and sample; give an example "
                "input, or ask for one group"
            )
        return
    for shape in shapes:
        positions = torch.Size(shape[2:]).numel()
        if positions > 1 or (one_asked and source.channels > 1):
            continue
        raise Refusal(f"one value per channel and sample, input {shape}")


def _eps(source: SourceNorm, spec: NormSpec) -> float:
    """The eps of the new layer: the one asked for, or the old one's, unless that is 0."""
    return spec.own_eps or source.eps or _EPS_OF_NONE


def _row(
    norm: FoundNorm,
    source: SourceNorm,
    new: nn.Module,
    groups: int,
    eps: float,
    note: str,
    shapes: list[tuple[int, ...]] | None,
) -> ConvertedLayer:
    notes = [note] if note else []
    if source.eps != eps:
        notes.append(f"eps was {source.eps:g}")
    if shapes is not None and len(shapes) != 1:
        notes.append(f"ran {len(shapes)} times" if shapes else "did not run on the example")
    stored = source.mean is not None
    affine = "from statistics" if stored else "copied"
    if source.weight is None:
        affine += ", not trained"
    return ConvertedLayer(
        name=norm.names[0],
        aliases=list(norm.names[1:]),
        source=type(source.module).__name__,
        target=type(new).__name__,
        channels=source.channels,
        groups=groups,
        source_eps=source.eps,
        eps=eps,
        affine=affine,
        statistics="in scale and shift" if stored else "none stored",
        trainable=source.trainable,
        error=None,
        note=", ".join(notes),
    )
