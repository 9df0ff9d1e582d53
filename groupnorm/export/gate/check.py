"""The gate: a written network is run, and compared with the network in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from groupnorm.export.errors import ExportError
from groupnorm.export.forms import FORMS
from groupnorm.export.gate.inputs import axes_of, inputs_to_run
from groupnorm.export.gate.isolated import run_isolated
from groupnorm.export.gate.network import LEAST, Check, Exact, Expected, Reference, compare, expect
from groupnorm.export.gate.norm_inputs import NormRecorder
from groupnorm.export.gate.norms import EXAMPLE, ON, WORST, NormCheck, NormsAlone, check_norms
from groupnorm.export.paths import files_of
from groupnorm.export.report import MOST_KEPT, ExportReport
from groupnorm.export.targets import runs_here, runtime_of, target_of

HARDLY = 1e-3
"""An output that changes by less, of its largest number, tells little, as the report says then."""
NOTED, REFUSED = 1e-4, 1e-3
"""PyTorch's own errors in float32, of the largest output, from which on an export says so, or is
refused."""


def exact_outputs(
    whole: nn.Module, example: tuple[Tensor, ...], dynamic: tuple[int, ...], dtype: torch.dtype
) -> tuple[list[Exact], list[str]]:
    """What a network gives in float64, on the example at first, and why some noise is left out.

    Args:
        whole: in evaluation mode, on the CPU, in float32.
        example: its inputs.
        dynamic: axes that may change.
        dtype: that it is to be exported in.

    Raises:
        ExportError: it does not run on the example or in another size, or not twice alike.
    """
    reference = Reference(whole, dtype)
    exact, left_out = [], []
    if not any(tensor.is_floating_point() for tensor in example):
        left_out.append("noise was not compared: the inputs are whole numbers")
    for inputs in inputs_to_run(example, dynamic, dtype):
        if inputs.optional and not all(bool(t.double().isfinite().all()) for t in inputs.tensors):
            left_out.append(f"{inputs.name} was not compared: {dtype} has no such numbers")
            continue
        try:
            exact.append(reference.on(inputs))
        except ExportError as error:
            if not inputs.optional:
                raise
            left_out.append(f"{inputs.name} was not compared: {error}")
    reference.check_repeats(exact[0])
    return exact, left_out + _constant_outputs(exact)


def _constant_outputs(exact: Sequence[Exact]) -> list[str]:
    """Notes on outputs that hardly depend on the inputs, so that they tell little of a file."""
    notes = []
    for number in range(len(exact[0].outputs)):
        lowest = min(float(one.outputs[number].min(initial=math.inf)) for one in exact)
        highest = max(float(one.outputs[number].max(initial=-math.inf)) for one in exact)
        if highest - lowest <= HARDLY * max(abs(lowest), abs(highest)):
            notes.append(
                f"output {number} is between {lowest:.6g} and {highest:.6g} on all inputs: "
                "what it is computed from hardly shows in it, so that its errors tell little"
            )
    return notes


def check_precise(example: Exact) -> None:
    """Check that PyTorch's own float32 network computes nearly what it does in float64.

    Raises:
        ExportError: it does not, so that nothing could be told from four times its error.
    """
    for output, error in zip(example.outputs, example.errors, strict=True):
        largest = float(np.abs(output).max(initial=0))
        if error > REFUSED * max(LEAST, largest):
            raise ExportError(
                f"PyTorch's own network in float32 is {error:.2g} off from itself in float64 where "
                f"its largest output is {largest:.2g}: it computes something else there, or loses "
                "its digits, so that a file cannot be compared with it. Mend that, or say with "
                "tolerance=... what you can bear"
            )


def check_file(
    to: str,
    network: nn.Module,
    exact: Sequence[Exact],
    made: Path,
    made_norms: Path,
    *,
    dynamic: tuple[int, ...],
    dtype: torch.dtype,
    tolerance: float | None,
    options: dict[str, Any],
) -> dict[str, Any]:
    """Write a prepared network, run it and compare.

    Args:
        to: name of the runtime.
        network: prepared, in its dtype.
        exact: what the network that it was made from gives, on the example at first.
        made: path of the file, in a folder that is not there yet.
        made_norms: the same of one with its norms by themselves, which are written for the check.
        dynamic: axes that may change.
        dtype: of the network.
        tolerance: see `groupnorm.export.save`.
        options: of the runtime's `write`.

    Returns:
        The fields of the report that come of it, and "left_out": what was not compared, and why.

    Raises:
        ExportError: it cannot be written, or does not run.
    """
    runtime = runtime_of(to)
    given = exact[0].inputs.tensors
    for path in (made, made_norms):
        path.parent.mkdir()
    runtime.write(network, given, made, dynamic=axes_of(given, dynamic), **options)
    recorder = NormRecorder(network)
    expected, left_out = [], []
    for one in exact:
        with recorder.run():
            ready = expect(one, network, dtype, tolerance)
        if one.inputs.optional and not all(map(math.isfinite, ready.pytorch)):
            left_out.append(
                f"{ready.name} was not compared: PyTorch's own network in {dtype} gives numbers "
                "there that are not finite"
            )
        else:
            expected.append(ready)
    found = runtime.describe(made)
    fields: dict[str, Any] = {
        "operators": found.operators,
        "delegates": found.delegates,
        "nbytes": _size(files_of(made, target_of(to))),
        "kept": expected if sum(map(_kept_bytes, expected)) <= MOST_KEPT else [],
        "not_run": None,
        "checks": [],
        "norms": [],
        "milliseconds": {},
        "left_out": left_out,
    }
    if not runs_here(target_of(to)):
        return fields | {"not_run": f"{target_of(to).title} does not run on this machine"}
    alone = NormsAlone(recorder.recorded, target_of(to).one_image)
    sets = ON if dtype == torch.float32 else (EXAMPLE, WORST)
    files = [(made, [one.inputs for one in expected])]
    if alone.parts:
        try:
            runtime.write(alone.eval(), alone.largest, made_norms, dynamic=alone.axes, **options)
        except ExportError as error:
            raise ExportError(f"its norms by themselves: {error}") from error
        files.append((made_norms, [[t.numpy() for t in alone.given(on)] for on in sets]))
    ran, *of_norms = run_isolated(runtime, *files)
    fields["checks"] = [compare(*pair) for pair in zip(ran.outputs, expected, strict=True)]
    fields["milliseconds"] = {"runtime": ran.milliseconds}
    for norms in of_norms:
        for on, outputs in zip(sets, norms.outputs, strict=True):
            if isinstance(outputs, ExportError):
                raise ExportError(f"its norms by themselves do not run: {outputs}") from outputs
            fields["norms"] += check_norms(alone, on, outputs, dtype)
    return fields


def label(check: Check | NormCheck) -> str:
    """What a check is of, for tables and messages."""
    if isinstance(check, NormCheck):
        return f"norm {check.name or '(the network)'}, {check.on}"
    return check.name + (f", output {check.output}" if check.output else "")


def raise_for_failures(report: ExportReport) -> None:
    """Raise ExportError with the numbers of what failed, and what to try.

    With a tolerance that is what exceeds it; nothing depends on the norms then.
    """
    failed = report.failed
    if report.tolerance is not None:
        failed = [one for one in report.checks if not one.passed]
    if not failed:
        return
    lines = [
        f"  {label(one)}: error {one.error:.2g}, allowed {one.allowed:.2g}"
        + (f" (PyTorch {one.pytorch:.2g})" if isinstance(one, Check) else
           f" (group norm as {one.form!r}, |mean| / spread {one.ratio:.3g})")
        for one in failed
    ]  # fmt: skip
    others = ", ".join(repr(form) for form in FORMS if form != report.form)
    advice = [f"try form={others}", "calibration images"]
    if report.tolerance is None:
        advice.append("or say with tolerance=... what you can bear")
    raise ExportError(
        f"what was written for {target_of(report.runtime).title} does not compute what the network "
        "does:\n"
        + "\n".join(lines)
        + f"\nGroup norms were written in the form {report.form!r}; "
        + ", ".join(advice)
    )


def _kept_bytes(expected: Expected) -> int:
    return sum(array.nbytes for array in (*expected.inputs, *expected.outputs))


def _size(files: Sequence[Path]) -> int:
    every = [file for one in files for file in ([one] if one.is_file() else one.rglob("*"))]
    return sum(file.stat().st_size for file in every if file.is_file())
