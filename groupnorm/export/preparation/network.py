"""A copy of a network made ready for a runtime, compared with the network that it was made from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from groupnorm.conversion.constants.fold import differing, outputs_by_name
from groupnorm.conversion.example import Example, NotRunError, input_shapes
from groupnorm.conversion.sources import Refusal
from groupnorm.conversion.walk import (
    carry_over,
    find_norms,
    irreplaceable,
    read_chosen,
    swap,
    working_copy,
)
from groupnorm.counts import counted
from groupnorm.export.errors import ExportError
from groupnorm.export.forms import FORMS, as_form
from groupnorm.export.preparation.baking import bake_weights
from groupnorm.export.preparation.calibration import calibration_batches, measure_inputs
from groupnorm.export.preparation.checks import check_exportable
from groupnorm.export.preparation.conditioning import condition, takes_group_eps
from groupnorm.export.preparation.constants import fold_constants
from groupnorm.export.preparation.functional import called_group_norms
from groupnorm.export.preparation.own_statistics import (
    group_norm_of,
    group_norms,
    simplify_norms,
)
from groupnorm.export.preparation.precision import Dtypes, check_runs, in_float64, moved, on_cpu
from groupnorm.export.preparation.report import (
    DTYPE,
    FOLDED,
    FORM,
    KEPT,
    MODE,
    NormRange,
    PreparedLayer,
    PrepareReport,
)
from groupnorm.export.preparation.scale import fold_scales
from groupnorm.layers import CalibratedGroupNorm


def prepare(
    model: nn.Module,
    example: Example,
    to: str,
    *,
    calibration: Tensor | Iterable[Any] | None = None,
    form: str | None = None,
    fill_bias: bool = False,
) -> tuple[nn.Module, PrepareReport]:
    """A copy of a network with folded what folds, and group norms in the form of a runtime.

    Computed weights become ordinary ones; constant norms go into the layers in front of them; the
    scale of a group norm goes into the layer behind where nothing stands between; with calibration
    images, group norms get inputs near 0 and of spread 1. All of it is computed in float64 and
    rounded once, and what norms and network give on the example is compared with what the model
    gives, in float64. (Where the model does not run in float64 its own dtypes are used, and the
    report says so.) The network computes what the model does, to rounding, and is made for
    inference.

    Args:
        model: in evaluation mode, on any device.
        example: an input that the network runs on: a tensor, a tuple of its arguments, or a
            callable that runs the model it gets. A list is one argument.
        to: the runtime, which chooses the form: "onnxruntime", "openvino", ...
        calibration: images as the network gets them, a few dozen: a tensor (N, *), or an iterable
            of batches, which stays in memory. Its batches are tensors, or lists or tuples that
            begin with one, as data loaders yield them; with the network's arguments in front where
            the example has several.
        form: of group norm, a name of `groupnorm.export.forms.FORMS`; None for the runtime's.
        fill_bias: give a group norm with a scale alone a bias of zeros.

    Returns:
        The network, in evaluation mode on the CPU, with the dtypes of the model, and the report.

    Raises:
        ExportError: a norm is in training mode or has no statistics, layers have no values, the
            runtime or form is unknown, the calibration images give values that are not finite, or
            the prepared network does not compute the same.
        ValueError: the network does not run on the example or on the calibration images, cannot be
            copied, is compiled, or there are no calibration images.
        TypeError: the model, the example or the calibration is none of what is taken.
    """
    check_exportable(model)
    dtypes = Dtypes(model)
    if form is None:
        from groupnorm.export.targets import form_for

        form = form_for(to, str(dtypes.usual).removeprefix("torch."))
    if form not in FORMS:
        raise ExportError(f"unknown form of group norm {form!r}; known: {', '.join(FORMS)}")
    batches = None if calibration is None else calibration_batches(calibration, example)
    rows = _modes(model)
    network, working, why = in_float64(on_cpu(model), example)
    if working is None:
        rows.append(
            PreparedLayer("", DTYPE, f"{dtypes.usual}, for it does not run in float64 ({why})")
        )
    given, example = example, moved(example, working)
    names = [norm.names[0] for norm in find_norms(network, None)]
    # of a copy, for a network may change as it runs
    before = outputs_by_name(working_copy(network), example, names)

    rows += bake_weights(network, example)
    network, changed = fold_constants(network, example)
    rows += changed
    moved_away = {row.layer for row in changed if row.action == FOLDED}
    network, changed = simplify_norms(network, example)
    rows += changed
    scaled = fold_scales(network, example)
    rows += scaled
    moved_away |= {row.layer for row in scaled}
    group_eps: dict[nn.Module, Tensor] = {}
    ranges = None
    if batches is not None:
        norms = {n.names[0]: n.module for n, _ in group_norms(network)}
        measured = measure_inputs(network, norms, batches, working, {})
        changed, group_eps = condition(network, example, measured, takes_group_eps(form))
        rows += changed
        again = measure_inputs(network, norms, batches, working, group_eps)
        ranges = tuple(
            NormRange(name, one.offset, again[name].offset, one.largest, again[name].largest)
            for name, one in measured.items()
        )
    network, changed = _in_form(network, example, form, group_eps, fill_bias)
    rows += changed
    _compare(before, network, example, names, moved_away)
    rows += called_group_norms(working_copy(network), example)
    dtypes.restore(network)
    try:
        check_runs(network, moved(given, None))
    except NotRunError as error:
        raise ExportError(
            f"the prepared network does not run in {dtypes.usual}: {error}"
        ) from error
    return network, PrepareReport(to, form, tuple(rows), ranges)


def _modes(model: nn.Module) -> list[PreparedLayer]:
    """A row if any part of the model is in training mode."""
    training = [name or "the network" for name, module in model.named_modules() if module.training]
    if not training:
        return []
    some = ", ".join(training[:3]) + (", ..." if len(training) > 3 else "")
    detail = f"{counted(len(training), 'module')} in training mode, now in evaluation mode: {some}"
    return [PreparedLayer("", MODE, detail)]


def _in_form(
    network: nn.Module,
    example: Example,
    form: str,
    group_eps: Mapping[nn.Module, Tensor],
    fill_bias: bool,
) -> tuple[nn.Module, list[PreparedLayer]]:
    """The network with its group norms in a form, and a row for each."""
    norms = [n for n in find_norms(network, None) if isinstance(n.module, nn.GroupNorm)]
    impossible = irreplaceable(network, norms)
    shapes = input_shapes(network, [norm.module for norm in norms], example)
    rows, replacements = [], []
    for norm in norms:
        module, name, kind = norm.module, norm.names[0], type(norm.module).__name__
        if isinstance(module, CalibratedGroupNorm):  # which has its row
            continue
        try:
            source = read_chosen(norm, impossible)
            wrong = [shape for shape in shapes[module] if not 2 <= len(shape) <= 5]
            if wrong:
                raise Refusal(f"no form takes an input of shape {wrong[0]}")
        except Refusal as refusal:
            rows.append(PreparedLayer(name, KEPT, f"{kind}: {refusal}"))
            continue
        # without the hooks, which the form gets below
        own = group_norm_of(source)
        assert isinstance(own, nn.GroupNorm)
        new = as_form(
            own, form, group_eps=group_eps.get(module), fill_bias=fill_bias, near=norm.near
        )
        carry_over(module, new)
        replacements.append((norm, new))
        rows.append(PreparedLayer(name, FORM, f"{kind} to {type(new).__name__}"))
    return swap(network, replacements), rows


def _compare(
    before: list[tuple[str, Tensor]],
    network: nn.Module,
    example: Example,
    names: list[str],
    moved_away: set[str],
) -> None:
    """Compare what each norm and the prepared network give with what they gave.

    Args:
        before: by name, in the order in which they run; the network's outputs last.
        network: the prepared one.
        example: that they ran on.
        names: of the norms.
        moved_away: names of norms in whose place something else is computed: those that are in the
            layer in front, which conditioning changes, or whose scale is in the layer behind.

    Raises:
        ExportError: the first that differs by more than rounding.
    """
    advice = (
        ". Something in it, such as a hook, uses a layer in another way than by calling it: leave "
        "that out of the network to be exported"
    )
    try:
        after = outputs_by_name(working_copy(network), example, names)
    except NotRunError as error:
        raise ExportError(f"the prepared network does not run: {error}") from error
    if [name for name, _ in before] != [name for name, _ in after]:
        raise ExportError("the prepared network does not run the same layers" + advice)
    for name, difference, largest in differing(before, after):
        if name and any(f"{one}.".startswith(f"{name}.") for one in moved_away):
            continue
        raise ExportError(
            f"the prepared network does not compute the same: {name or 'its output'} differs "
            f"by {difference:.2g} where the largest value is {largest:.2g}{advice}"
        )
