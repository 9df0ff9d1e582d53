"""All norms of a network, fitted to data one after another in the order in which they run."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from groupnorm.conversion.calibration.batches import Batches
from groupnorm.conversion.calibration.distill import distill, held_out_outputs, output_error
from groupnorm.conversion.calibration.group_rule import (
    ErrorBudget,
    norm_weights,
)
from groupnorm.conversion.calibration.norm import NormFit, Options, norm_of
from groupnorm.conversion.calibration.progress import Progress
from groupnorm.conversion.calibration.segments import Point, Segments, Sweeps, Walk
from groupnorm.conversion.calibration.states import States
from groupnorm.conversion.calibration.tape import Holder, Untraceable
from groupnorm.conversion.constants.fold import check_layer
from groupnorm.conversion.constants.producers import NOT_RUN, LinearLayer, find_producers
from groupnorm.conversion.example import copied, evaluating
from groupnorm.conversion.rebuild import build
from groupnorm.conversion.report import ConvertedLayer, plural
from groupnorm.conversion.rules import static_affine
from groupnorm.conversion.sources import Refusal, read_norm
from groupnorm.conversion.walk import swap
from groupnorm.spec import NormSpec


@dataclass(frozen=True)
class Calibrated:
    """What a calibration found.

    Attributes:
        student: a copy of the network with the new norms.
        rows: of the report, those of fitted norms filled in.
        output_error: relative, of the network's outputs on what was held out; None where these
            cannot be compared.
        notes: for the report.
    """

    student: nn.Module
    rows: list[ConvertedLayer]
    output_error: float | None
    notes: list[str]


def calibrate(
    model: nn.Module,
    rows: Sequence[ConvertedLayer],
    spec: NormSpec,
    batches: Batches,
    options: Options,
) -> Calibrated:
    """Fit a copy of a network with group norms to the network on data.

    Args:
        model: with its old norms; it is not changed.
        rows: of the norms to replace, as they would be without data.
        spec: of the new norms.
        batches: the data.
        options: how.

    Raises:
        ValueError: the network does not run on the data or cannot be copied, values are not finite,
            or there are too few samples.
    """
    teacher, student = (Holder(copied(model, "with data it must be")) for _ in range(2))
    with evaluating(teacher), evaluating(student), States() as states:
        producers = _producers(teacher, rows, batches)
        points = [
            Point(_held(row.name), None if isinstance(layer, str) else layer[0])
            for row, layer in ((row, producers[row.name]) for row in rows)
            if layer != NOT_RUN
        ]
        if not points:
            raise ValueError("none of the norms to convert runs on the data")
        walk, notes = _walk(teacher, student, batches, points, states)
        by_name = {_held(row.name): row for row in rows}
        order = [by_name[point.norm] for point in walk.order]
        weights = norm_weights(
            [row.channels for row in order], [walk.linear(point) for point in walk.order]
        )
        budget = ErrorBudget(weights, options.budget)
        found = {row.name: row for row in rows}
        progress = Progress(len(order), options.progress)
        for i, (point, row) in enumerate(zip(walk.order, order, strict=True)):
            progress.show(i, f"norm {i + 1} of {len(order)}, {row.name}")
            walk.go_to(point)
            fitted = NormFit(
                teacher, student, point, row, spec, options, options.seed + i, first=i == 0
            )
            found[row.name] = fitted.replace(walk, budget)
            if fitted.odd:
                notes.append(fitted.odd)
                warnings.warn(fitted.odd, stacklevel=4)
        unseen = [row for row in rows if producers[row.name] == NOT_RUN]
        if unseen:
            _convert_statically(student, unseen, spec)
            names = ", ".join(row.name for row in unseen)
            notes.append(
                f"{plural(len(unseen), 'norm')} did not run on the data: {names}. Converted "
                "as without data."
            )
        progress.show(len(order), "the network's output")
        if options.finetune_steps:
            notes.append(
                distill(
                    teacher.model, student.model, batches, options.finetune_steps,
                    seed=options.seed, progress=options.progress,
                )
            )  # fmt: skip
            error = output_error(held_out_outputs(batches, teacher.model, student.model))
        else:
            error = output_error(walk.outputs())
        notes += _notes_on(states)
    return Calibrated(student.model, list(found.values()), error, notes)


def _producers(
    teacher: Holder, rows: Sequence[ConvertedLayer], batches: Batches
) -> dict[str, tuple[str, LinearLayer] | str]:
    """Of each norm the layer that makes its input, with its name, or why it cannot be changed."""
    modules = {row.name: teacher.get_submodule(_held(row.name)) for row in rows}
    found = find_producers(teacher.model, modules.values(), batches.example)
    names = {module: name for name, module in teacher.named_modules()}
    owners = Counter(id(p) for m in teacher.modules() for p in m._parameters.values())
    producers: dict[str, tuple[str, LinearLayer] | str] = {}
    for name, module in modules.items():
        layer = found[module]
        if not isinstance(layer, str):
            try:
                source = read_norm(module, layer.weight)
                check_layer(layer, names[layer].removeprefix("model."), source, owners)
            except Refusal as refusal:
                producers[name] = str(refusal)
                continue
            producers[name] = names[layer], layer
        else:
            producers[name] = layer
    return producers


def _walk(
    teacher: Holder, student: Holder, batches: Batches, points: Sequence[Point], states: States
) -> tuple[Walk, list[str]]:
    """The way through the network, and what is to say about it."""
    try:
        return Segments(teacher, student, batches, points, states), []
    except Untraceable as reason:
        note = f"The network ran from its beginning for each norm, which is slow: {reason}."
        return Sweeps(teacher, student, batches, points), [note]


def _convert_statically(student: Holder, rows: Sequence[ConvertedLayer], spec: NormSpec) -> None:
    """Replace norms as without data."""
    for row in rows:
        found, own = norm_of(student, _held(row.name))
        values = static_affine(own, row.groups, row.eps)
        new = build(own, spec, row.groups, row.eps)[0]
        for key, value in zip(("weight", "bias"), values, strict=True):
            getattr(new, key).copy_(value)
        swap(student, [(found, new)])


def _notes_on(states: States) -> list[str]:
    notes = []
    if states.halved:
        notes.append("Values between the layers were held in float16, for float32 did not fit.")
    if states.on_disk:
        notes.append(
            f"Up to {states.on_disk / 1e9:.1f} GB of values between the layers were held in files."
        )
    return notes


def _held(name: str) -> str:
    """The name below a `Holder` of what the network has by this name."""
    return f"model.{name}" if name else "model"
