"""All norms of a network, fitted to data one after another in the order in which they run."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from groupnorm.conversion.calibration.batches import Batches
from groupnorm.conversion.calibration.data_checks import check_repeatable, odd_variance
from groupnorm.conversion.calibration.distill import check_distillation, distill, held_out_error
from groupnorm.conversion.calibration.group_rule import ErrorBudget, norm_weights
from groupnorm.conversion.calibration.norm import NormFit, norm_of
from groupnorm.conversion.calibration.options import Options
from groupnorm.conversion.calibration.progress import Progress
from groupnorm.conversion.calibration.states import States
from groupnorm.conversion.calibration.tape import Holder, held_name
from groupnorm.conversion.calibration.walks import choose_walk
from groupnorm.conversion.example import copied, evaluating
from groupnorm.conversion.finite import NotFiniteError, check_finite
from groupnorm.conversion.rebuild import build
from groupnorm.conversion.report import ConvertedLayer
from groupnorm.conversion.rules import static_affine
from groupnorm.conversion.walk import swap
from groupnorm.counts import counted
from groupnorm.memory import release_free_blocks
from groupnorm.spec import NormSpec

_POOR_LAYER = 0.5  # error of a layer, 1 for a constant
_POOR_OUTPUT = 0.2  # of the network


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
        ValueError: the network does not run on the data, gives another output each time or cannot
            be copied, the data hardly vary, there are too few samples, or
            `check_distillation` refuses the distillation that is asked for.
        NotFiniteError: values are not finite; the message names the first layer and sample.
    """
    teacher, student = (Holder(copied(model, "with data it must be")) for _ in range(2))
    with evaluating(teacher), evaluating(student), States() as states:
        try:
            return _calibrated(teacher, student, rows, spec, batches, options, states)
        except NotFiniteError:
            for name, root in (("the network", teacher), ("the converted network", student)):
                check_finite(name, root.model, batches.pieces, batches.run_on)
            raise


def _calibrated(
    teacher: Holder,
    student: Holder,
    rows: Sequence[ConvertedLayer],
    spec: NormSpec,
    batches: Batches,
    options: Options,
    states: States,
) -> Calibrated:
    check_repeatable(teacher.model, batches)
    odd = odd_variance(teacher.model, batches)
    if options.finetune_steps:
        trial = copied(student)
        _convert_statically(trial, rows, spec)
        check_distillation(teacher.model, trial.model, batches)
        del trial
    walk, notes = choose_walk(teacher, student, rows, batches, states)
    if odd:
        notes.append(odd)
        warnings.warn(odd, stacklevel=5)
    by_name = {held_name(row.name): row for row in rows}
    order = [by_name[point.norm] for point in walk.order]
    weights = norm_weights(
        [row.channels for row in order], [walk.linear(point) for point in walk.order]
    )
    budget = ErrorBudget(weights, options.budget)
    found = {row.name: row for row in rows}
    progress = Progress(len(order), options.progress)
    moved = 0
    for i, (point, row) in enumerate(zip(walk.order, order, strict=True)):
        progress.show(i, f"norm {i + 1} of {len(order)}, {row.name}")
        walk.go_to(point)
        fitted = NormFit(teacher, student, point, row, spec, options, options.seed + i)
        found[row.name] = fitted.replace(walk, budget)
        moved += fitted.moved
        release_free_blocks()
    unseen = [row for row in rows if row not in order]
    if unseen:
        _convert_statically(student, unseen, spec)
        names = ", ".join(row.name for row in unseen)
        notes.append(
            f"{counted(len(unseen), 'norm')} did not run on the data, or on too few batches: "
            f"{names}. Converted as without data."
        )
    progress.show(len(order), "the network's output")
    states.clear()
    if options.finetune_steps:
        notes.append(
            distill(
                teacher.model, student.model, batches, options.finetune_steps,
                seed=options.seed, progress=options.progress,
            )
        )  # fmt: skip
    error = held_out_error(batches, teacher.model, student.model)
    if options.reorder:
        notes.append(f"Channels of {counted(moved, 'norm')} have another order than before.")
    notes += _notes_on(states)
    notes += _notes_on_errors(list(found.values()), error)
    return Calibrated(student.model, list(found.values()), error, notes)


def _convert_statically(student: Holder, rows: Sequence[ConvertedLayer], spec: NormSpec) -> None:
    """Replace norms as without data."""
    for row in rows:
        found, own = norm_of(student, held_name(row.name))
        values = static_affine(own, row.groups, row.eps)
        new = build(own, spec, row.groups, row.eps)[0]
        for key, value in zip(("weight", "bias"), values, strict=True):
            getattr(new, key).copy_(value)
        swap(student, [(found, new)])


def _notes_on_errors(rows: Sequence[ConvertedLayer], error: float | None) -> list[str]:
    """What is so far from the network before that its user must know."""
    notes = []
    errors = {row.name: row.error for row in rows if row.error is not None}
    poor = [name for name in errors if errors[name] > _POOR_LAYER]
    if poor:
        worst = max(poor, key=errors.__getitem__)
        notes.append(
            f"{counted(len(poor), 'norm')} gave back little of what the old one gave, with an "
            f"error above {_POOR_LAYER:g}; the worst is {worst}, {errors[worst]:.2f}. Leave such "
            "layers out (`only`), or give them fewer groups."
        )
    if error is not None and error > _POOR_OUTPUT:
        notes.append(
            f"The outputs differ by {error:.2f} of their variance: much of what the network knew "
            'is lost. Fewer groups (to="ln" is one), more different images and distillation '
            "(`finetune_steps`) keep more."
        )
    return notes


def _notes_on(states: States) -> list[str]:
    notes = []
    if states.halved:
        notes.append("Values between the layers were held in float16, for float32 did not fit.")
    if states.on_disk:
        size = states.on_disk
        shown = f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{math.ceil(size / 1e6)} MB"
        notes.append(f"Up to {shown} of values between the layers were held in files.")
    return notes
