"""Export of a network: prepare, write, run what was written, compare, and only then keep it."""

from __future__ import annotations

import copy
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from groupnorm.conversion.example import copied
from groupnorm.environment import environment
from groupnorm.export.errors import ExportError, NotRunHereError
from groupnorm.export.forms import FORMS, GroupNormForm
from groupnorm.export.inputs import (
    Inputs,
    check_dynamic,
    dynamic_axes,
    example_of,
    inputs_to_run,
)
from groupnorm.export.network_check import (
    TIMES,
    Check,
    Expected,
    Run,
    compare,
    expect,
    outputs_of,
)
from groupnorm.export.norm_check import NormsAlone, check_norms, worst_inputs
from groupnorm.export.preparation import prepare
from groupnorm.export.report import MOST_KEPT, ExportReport, write_report
from groupnorm.export.runtimes.probe import check_survives
from groupnorm.export.targets import Target, forms_for, runtime_of, target_of
from groupnorm.files import check_writable

_DTYPES = {"float32": torch.float32, "float16": torch.float16}
_ROUNDS = 10
OPSETS = (18, 23)
GROUP_NORM_OPSET = 21
"""From this opset on ONNX has an operator GroupNormalization, which ONNX Runtime gets wrong."""


def save(
    model: nn.Module,
    path: str | os.PathLike[str],
    example: Tensor | Sequence[Tensor],
    to: str = "onnxruntime",
    *,
    dynamic: Sequence[int] = (),
    dtype: str = "float32",
    calibration: Tensor | Iterable[Any] | None = None,
    tolerance: float | None = None,
    form: str | None = None,
    opset: int | None = None,
) -> ExportReport:
    """Write a network for a runtime, run the file there, and keep it if it is right.

    The network is prepared (`groupnorm.export.prepare`), written, run, and compared with the model
    in float64: on the example, on noise around 0, 10, 100 and 1,000 times the example's spread, and
    on other sizes where some may change. Allowed is four times PyTorch's own error and 1e-5, or
    four roundings in half types. Then each norm is run by itself on the input on which its groups
    lie farthest from zero; allowed is `1e-6 (1 + |mean| / spread)` of its weight, more for values
    beyond the spread. Where a runtime has
    several forms of group norm the first that passes is kept, and the report says what was wrong
    with those before it.

    Args:
        model: in evaluation mode; on any device. It is left as it is.
        path: of the file, with the runtime's ending. `path`.report.json is written beside it.
        example: a tensor, or one for each argument of the model.
        to: a name of `groupnorm.export.TARGETS`.
        dynamic: axes of the inputs whose size may change: 0 for the batch, 2 and more for
            positions.
        dtype: of the network: "float32", or "float16" where the runtime was run with it.
        calibration: images, to bring what goes into norms near to zero; see `prepare`.
        tolerance: largest absolute error to allow in place of the rule above; norms are then
            compared, and nothing depends on it.
        form: of group norm, in place of the runtime's: "plain", "instance",
            "pooled" or "blocked".
        opset: of ONNX. From 21 on group norm is written as the operator, which ONNX Runtime gets
            wrong: then `tolerance` is needed.

    Raises:
        groupnorm.export.ExportError: the network cannot be exported, or what was written is wrong.
            No file is left.
    """
    path = Path(path)
    target = target_of(to)
    versions = runtime_of(to).versions()
    example = example_of(example)
    dynamic = dynamic_axes(dynamic)
    check_dynamic(example, dynamic, target.dynamic)
    options = _write_options(to, opset, tolerance)
    forms = _forms(to, dtype, form, opset, dynamic)
    _check_path(path, target)
    _check_dtypes(example)
    whole = copied(model).cpu().float()
    outputs_of(whole, example)  # what does not run is found at once
    if calibration is not None and not isinstance(calibration, Tensor):
        calibration = list(calibration)
    refused: dict[str, str] = {}
    for one in forms:
        prepared, changes = prepare(
            whole, example, to, calibration=calibration, form=one, fill_bias=target.fill_bias
        )
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            made = Path(folder) / path.name
            try:
                checked = _check(
                    to, whole.eval(), prepared.to(_DTYPES[dtype]), example, made,
                    dynamic=dynamic, dtype=dtype, tolerance=tolerance, options=options,
                )  # fmt: skip
                report = ExportReport(
                    runtime=to,
                    files=[path.name, *(path.with_suffix(ending).name for ending in target.beside)],
                    dtype=dtype,
                    form=one,
                    refused_forms=dict(refused),
                    dynamic=list(dynamic),
                    prepared=[asdict(row) for row in changes.rows],
                    ranges=[asdict(row) for row in changes.ranges or ()],
                    tolerance=tolerance,
                    notes=[*target.notes, *_half_notes(checked["checks"], dtype)],
                    versions=versions,
                    environment=environment(),
                    **checked,
                )
                if tolerance is None or not all(check.passed for check in report.checks):
                    raise_for_failures(report)
            except ExportError as error:
                refused[one] = str(error)
                continue
            _move(made, path, target)
        write_report(path, report)
        return report
    raise ExportError("\n\n".join(dict.fromkeys(refused.values())))


def _forms(
    to: str, dtype: str, form: str | None, opset: int | None, dynamic: tuple[int, ...]
) -> tuple[str, ...]:
    """The forms to try: the one asked for, the operator's of late opsets, or the runtime's."""
    usual = forms_for(to, dtype, dynamic)
    if form is not None and form not in FORMS:
        raise ExportError(f"unknown form {form!r}; known: {', '.join(FORMS)}")
    if opset is not None and opset >= GROUP_NORM_OPSET and form is None:
        return ("plain",)
    return usual if form is None else (form,)


def _write_options(to: str, opset: int | None, tolerance: float | None) -> dict[str, Any]:
    """The arguments of a runtime's `write` that are its own."""
    if tolerance is not None and not (
        isinstance(tolerance, (int, float)) and 0 <= tolerance < math.inf
    ):
        raise ExportError(f"tolerance must be a number of at least 0, got {tolerance!r}")
    if opset is None:
        return {}
    if not isinstance(opset, int) or not OPSETS[0] <= opset <= OPSETS[1]:
        raise ExportError(
            f"opset must be a whole number from {OPSETS[0]} to {OPSETS[1]}, which PyTorch writes, "
            f"got {opset!r}"
        )
    if to != "onnxruntime":
        raise ExportError(f"opset={opset}: only ONNX Runtime's files have one, got to={to!r}")
    if opset >= GROUP_NORM_OPSET and tolerance is None:
        raise ExportError(
            f"opset={opset} has the operator GroupNormalization, which ONNX Runtime computes from "
            "E[x^2] - E[x]^2: it is 3e-2 off where the mean is 100 times the spread. Leave opset "
            "out, or say with tolerance=... which error you can bear"
        )
    return {"opset": opset}


def _check_path(path: Path, target: Target) -> None:
    if path.suffix != target.ending:
        raise ExportError(f"a file for {target.title} ends with {target.ending}, got {path}")
    if not path.parent.is_dir():
        raise ExportError(f"the folder {path.parent} is not there")
    try:
        check_writable(path.parent)
    except OSError as error:
        raise ExportError(f"{path.parent} cannot be written to ({error.strerror})") from None
    if path.is_dir() and target.ending != ".mlpackage":
        raise ExportError(f"{path} is a folder")
    for ending in target.beside:
        beside = path.with_suffix(ending)
        if beside.exists() and not path.exists():
            raise ExportError(
                f"{beside}, where the weights go, is there and belongs to another file; choose "
                "another name"
            )


def _check_dtypes(example: Sequence[Tensor]) -> None:
    for tensor in example:
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise ExportError(
                f"give the example in float32, got {str(tensor.dtype).removeprefix('torch.')}; "
                "dtype=... says what the network is to have"
            )


def _as_dtype(inputs: Inputs, dtype: str) -> Inputs:
    wanted = _DTYPES[dtype]
    return Inputs(
        inputs.name,
        tuple(t.to(wanted) if t.is_floating_point() else t for t in inputs.tensors),
    )


def _check(
    to: str,
    whole: nn.Module,
    network: nn.Module,
    example: tuple[Tensor, ...],
    made: Path,
    *,
    dynamic: tuple[int, ...],
    dtype: str,
    tolerance: float | None,
    options: dict[str, Any],
) -> dict[str, Any]:
    """Write a prepared network, run it and compare; the fields of the report that come of it."""
    runtime = runtime_of(to)
    every = [_as_dtype(one, dtype) for one in inputs_to_run(example, dynamic)]
    given = every[0].tensors
    runtime.write(network, given, made, dynamic=dynamic, **options)
    exact = copy.deepcopy(whole).double()
    _check_repeats(exact, example)
    own = (copy.deepcopy(whole).to(_DTYPES[dtype]), network)
    expected = [expect(inputs, exact, own, _DTYPES[dtype], tolerance) for inputs in every]
    found = runtime.describe(made)
    norms, worst = _norms_of(network, every)
    alone = made.with_stem("norms")
    if norms:
        runtime.write(NormsAlone(list(norms.values())).eval(), worst, alone, **options)
    fields: dict[str, Any] = {
        "operators": found.operators,
        "delegates": found.delegates,
        "nbytes": _size(made, target_of(to)),
        "kept": expected if sum(map(_kept_bytes, expected)) <= MOST_KEPT else [],
        "not_run": None,
        "checks": [],
        "norms": [],
        "milliseconds": {},
    }
    try:
        runs = _loaded(runtime, [(made, given), *([(alone, worst)] if norms else [])])
    except NotRunHereError as reason:
        return fields | {"not_run": str(reason)}
    fields["checks"] = [compare(runs[0], one) for one in expected]
    if norms:
        fields["norms"] = check_norms(runs[1], norms, worst, _DTYPES[dtype])
    fields["milliseconds"] = _time(runs[0], network, given)
    return fields


def _check_repeats(exact: nn.Module, example: tuple[Tensor, ...]) -> None:
    """Check that a network gives the same twice.

    Raises:
        ExportError: it draws random numbers, or changes as it runs.
    """
    doubled = tuple(t.double() if t.is_floating_point() else t for t in example)
    first, again = (outputs_of(exact, doubled) for _ in range(2))
    if not all(torch.equal(a, b) for a, b in zip(first, again, strict=True)):
        raise ExportError(
            "the network gives other outputs each time that it runs: nothing can be compared with "
            "it. Take out what draws random numbers or keeps a state"
        )


def _half_notes(checks: Sequence[Check], dtype: str) -> list[str]:
    """What to know of a network in a half type whose error on the example is not its rounding's."""
    if dtype == "float32" or not checks:
        return []
    check, rounding = checks[0], torch.finfo(_DTYPES[dtype]).eps / 2
    if check.error <= TIMES * rounding * check.largest:
        return []
    return [
        f"on the example the {dtype} network is {check.error:.2g} off, more than {TIMES} roundings "
        f"of its largest output; PyTorch's own is {check.pytorch:.2g} off. Calibration images "
        "bring what goes into norms near to zero, where half types have their digits"
    ]


def _norms_of(
    network: nn.Module, every: Sequence[Inputs]
) -> tuple[dict[str, GroupNormForm], tuple[Tensor, ...]]:
    """The norms that run, by name, and the input of each that lies farthest from zero."""
    inputs = worst_inputs(network, every)
    norms = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, GroupNormForm) and name in inputs
    }
    return norms, tuple(inputs[name] for name in norms)


def _loaded(runtime: Any, files: Sequence[tuple[Path, tuple[Tensor, ...]]]) -> list[Run]:
    """Functions that run the files, which another process has survived."""
    check_survives(runtime, [(path, [t.numpy() for t in inputs]) for path, inputs in files])
    return [runtime.load(path) for path, _ in files]


def _time(run: Run, network: nn.Module, example: tuple[Tensor, ...]) -> dict[str, float]:
    """Milliseconds of one call on one thread, the least of rounds in which both take turns."""
    arrays = [tensor.numpy() for tensor in example]
    calls: dict[str, Callable[[], Any]] = {
        "runtime": lambda: run(arrays),
        "PyTorch": lambda: outputs_of(network, example),
    }
    least = dict.fromkeys(calls, math.inf)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(_ROUNDS):
            for name, call in calls.items():
                began = time.perf_counter()
                call()
                least[name] = min(least[name], 1e3 * (time.perf_counter() - began))
    finally:
        torch.set_num_threads(threads)
    return least


def raise_for_failures(report: ExportReport) -> None:
    """Raise ExportError with the numbers of what failed, and what to try."""
    lines = [
        f"  {one.name or 'the norm'}: error {one.error:.2g}, allowed {one.allowed:.2g}"
        + (f" (PyTorch {one.pytorch:.2g})" if isinstance(one, Check) else
           f" (group norm as {one.form!r}, |mean| / spread {one.ratio:.3g})")
        for one in report.failed
    ]  # fmt: skip
    if not lines:
        return
    others = ", ".join(repr(form) for form in FORMS if form != report.form)
    raise ExportError(
        f"what was written for {target_of(report.runtime).title} does not compute what the network "
        "does:\n" + "\n".join(lines) + f"\nGroup norms were written in the form {report.form!r}; "
        f"try form={others}, calibration images, or say with tolerance=... what you can bear"
    )


def _kept_bytes(expected: Expected) -> int:
    return sum(array.nbytes for array in (*expected.inputs, *expected.outputs))


def _size(made: Path, target: Target) -> int:
    paths = [made, *(made.with_suffix(ending) for ending in target.beside)]
    every = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*"))]
    return sum(file.stat().st_size for file in every if file.is_file())


def _move(made: Path, path: Path, target: Target) -> None:
    """Put the files in their place; the one to open last."""
    for ending in target.beside:
        os.replace(made.with_suffix(ending), path.with_suffix(ending))
    if path.is_dir():
        shutil.rmtree(path)
    os.replace(made, path)
