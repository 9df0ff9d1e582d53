"""A conversion with data: fitted in a copy, then put into the network at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import nn

from groupnorm.conversion.calibration.batches import Batches, fewest_samples
from groupnorm.conversion.calibration.group_rule import MIN_SAMPLES
from groupnorm.conversion.calibration.network import calibrate
from groupnorm.conversion.calibration.options import Options
from groupnorm.conversion.example import Forward
from groupnorm.conversion.rebuild import add_biases, build
from groupnorm.conversion.report import ConversionReport
from groupnorm.conversion.rules import is_free
from groupnorm.conversion.sources import read_norm
from groupnorm.conversion.walk import FoundNorm, changed_keys, swap
from groupnorm.layers import CalibratedGroupNorm
from groupnorm.spec import NormSpec

_WITHOUT_DATA = ("free", "min_channels")  # what a conversion without data has, too


def check_options(to: str | NormSpec, data: Any, forward: Forward | None, options: Options) -> None:
    """Check what goes with data, or without, or not together.

    Raises:
        ValueError: it does not.
    """
    unused = Options()
    given = [
        field.name
        for field in fields(Options)
        if field.name not in _WITHOUT_DATA
        and getattr(options, field.name) != getattr(unused, field.name)
    ]
    if forward is not None:
        given.append("forward")
    if data is None and given:
        verb = "goes" if len(given) == 1 else "go"
        raise ValueError(f"{', '.join(given)} {verb} with data: nothing is fitted without")
    if data is not None and not NormSpec.parse(to).is_group_norm:
        raise ValueError(f"data goes with group norms, not with {to}, which computes the same")
    if "budget" in given and not options.free:
        raise ValueError(
            f'budget goes with to="gn", which chooses the numbers of groups; {to} has them fixed'
        )
    if options.plain and options.hybrid != 1:
        raise ValueError(f"hybrid below 1 is no plain group norm, got {options.hybrid}")


def fewest_samples_for(to: str | NormSpec) -> int:
    """The fewest samples from which `convert` with data makes this norm."""
    return fewest_samples(MIN_SAMPLES if is_free(NormSpec.parse(to)) else 1)


def batches_for(model: nn.Module, data: Any, forward: Forward | None, seed: int) -> Batches:
    """The data of a conversion, which runs where the model lies.

    Raises:
        TypeError: and ValueError, as `Batches`.
    """
    tensors = [*model.parameters(), *model.buffers()]
    return Batches(data, forward, tensors[0].device if tensors else torch.device("cpu"), seed)


def convert_with(
    batches: Batches,
    model: nn.Module,
    norms: Sequence[FoundNorm],
    report: ConversionReport,
    options: Options,
) -> tuple[nn.Module, ConversionReport]:
    """The network with fitted norms in the places of its own, which is the model itself.

    Args:
        batches: the data.
        model: the network to change. Until everything is fitted it is not touched.
        norms: of the model, to be replaced.
        report: of the conversion without data, with a row for each of the norms.
        options: of the fit.

    Raises:
        ValueError: as `calibrate`, or a parameter cannot be changed.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_inference():
            raise ValueError(
                f"{name} was made in inference mode and cannot be changed; make the network outside"
            )
    spec = NormSpec.parse(report.to)
    fitted = calibrate(model, report.layers, spec, batches, options)
    replacements = [
        (
            norm,
            build(
                read_norm(norm.module, norm.near), spec, row.groups, row.eps,
                row.in_front == "itself", row.hybrid,
            )[0],
        )
        for norm, row in zip(norms, fitted.rows, strict=True)
    ]  # fmt: skip
    new_keys, removed_keys = changed_keys(replacements)
    biases = [key for key in fitted.student.state_dict() if key not in model.state_dict()]
    new_keys = list(dict.fromkeys([*new_keys, *biases]))
    values = dict(fitted.student.named_parameters())
    model = swap(model, replacements)
    add_biases(model, biases)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(values[name])
        for (_, new), row in zip(replacements, fitted.rows, strict=True):
            if isinstance(new, CalibratedGroupNorm) and new.hybrid < 1:
                ours = dict(fitted.student.get_submodule(row.name).named_buffers())
                new.stored_mean.copy_(ours["stored_mean"])
                new.stored_var.copy_(ours["stored_var"])
    return model, replace(
        report,
        layers=fitted.rows,
        new_keys=new_keys,
        removed_keys=removed_keys,
        output_error=fitted.output_error,
        notes=fitted.notes,
    )
