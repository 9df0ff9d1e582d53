"""Export of a network: prepare, write, run what was written, compare, and only then keep it."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from groupnorm.conversion.example import copied
from groupnorm.counts import counted
from groupnorm.environment import environment
from groupnorm.export.errors import ExportError
from groupnorm.export.forms import FORMS
from groupnorm.export.gate.check import (
    NOTED,
    check_file,
    check_precise,
    exact_outputs,
    raise_for_failures,
)
from groupnorm.export.gate.inputs import check_dynamic, dynamic_axes, example_of
from groupnorm.export.gate.isolated import least_seconds
from groupnorm.export.gate.network import TIMES, Check, outputs_of
from groupnorm.export.paths import check_paths, digest_of, files_of, put_in_place
from groupnorm.export.preparation import prepare
from groupnorm.export.preparation.checks import check_exportable
from groupnorm.export.preparation.report import KEPT, PrepareReport
from groupnorm.export.report import ExportReport, write_report
from groupnorm.export.targets import Target, forms_for, runtime_of, target_of

_DTYPES = {"float32": torch.float32, "float16": torch.float16}
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

    The network is prepared (`groupnorm.export.prepare`), written, run in a process of its own, and
    compared with the model in float64: on the example, in other sizes where those may change, and
    on noise around 0, 10, 100 and 1,000 times the example's spread. Allowed, of each output, is
    four times PyTorch's own error plus 1e-5 of its largest number (1e-5 from 1 on, 1e-8 below a
    thousandth), or plus four roundings of it in half types. Then each norm is run by itself: on the
    example's input, on the one whose groups lie farthest from zero, and in float32 on one whose
    variance is eps; allowed is `1e-6 (1 + |mean| / spread)` of its weight, more for values beyond
    the spread. What the network is not for, as it gives values there that are not finite, is left
    out, which the report's notes say. Where a runtime has several forms of group norm the first
    that passes is kept, and the report says what was wrong with those before it.

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
    check_paths(path, target)
    _check_dtypes(example)
    _check_size(model, target, _DTYPES[dtype])
    check_exportable(model)
    given = copied(model).cpu().float()
    whole = copied(given).eval()
    if isinstance(calibration, Iterable) and not isinstance(calibration, Tensor | str):
        calibration = list(calibration)
    exact, left_out = exact_outputs(whole, example, dynamic, _DTYPES[dtype])
    if tolerance is None and dtype == "float32":
        check_precise(exact[0])
    refused: dict[str, str] = {}
    for one in forms:
        prepared, changes = prepare(
            given, example, to, calibration=calibration, form=one, fill_bias=target.fill_bias
        )
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as text:
            folder = Path(text)
            made = folder / "network" / path.name
            try:
                checked = check_file(
                    to, prepared.to(_DTYPES[dtype]), exact, made, folder / "norms" / path.name,
                    dynamic=dynamic, dtype=_DTYPES[dtype], tolerance=tolerance, options=options,
                )  # fmt: skip
                notes = [*target.notes, *_unchecked(changes), *left_out, *checked.pop("left_out")]
                report = ExportReport(
                    runtime=to,
                    files={one.name: digest_of(one) for one in files_of(made, target)},
                    dtype=dtype,
                    form=one,
                    refused_forms=dict(refused),
                    dynamic=list(dynamic),
                    prepared=[asdict(row) for row in changes.rows],
                    ranges=[asdict(row) for row in changes.ranges or ()],
                    tolerance=tolerance,
                    notes=[*notes, *_precision_notes(checked["checks"], dtype)],
                    versions=versions,
                    environment=environment(),
                    **checked,
                )
                raise_for_failures(report)
            except ExportError as error:
                refused[one] = str(error)
                continue
            if report.not_run is None:
                report.milliseconds["PyTorch"] = 1e3 * _seconds(whole, example)
            write_report(made, report)
            put_in_place(made, path, target, folder / "before")
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
        type(tolerance) in (int, float) and 0 <= tolerance < math.inf
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


def _check_size(model: nn.Module, target: Target, dtype: torch.dtype) -> None:
    """Check that a file holds the weights, before anything is made of them."""
    if target.most_bytes is None or not isinstance(model, nn.Module):
        return
    tensors = [*model.parameters(), *model.buffers()]
    nbytes = sum(
        t.numel() * (dtype.itemsize if t.is_floating_point() else t.element_size())
        for t in tensors
        if not is_lazy(t)
    )
    if nbytes >= target.most_bytes:
        raise ExportError(
            f"the weights have {nbytes / 1e9:.1f} GB; one file for {target.title} holds "
            f"{target.most_bytes / 2**30:.0f} GB. Export in float16, or in parts"
        )


def _check_dtypes(example: Sequence[Tensor]) -> None:
    for tensor in example:
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise ExportError(
                f"give the example in float32, got {str(tensor.dtype).removeprefix('torch.')}; "
                "dtype=... says what the network is to have"
            )


def _unchecked(changes: PrepareReport) -> list[str]:
    """Notes on norms that stay as they are, and are not checked by themselves."""
    kept = changes.of(KEPT)
    if not kept:
        return []
    some = "; ".join(f"{name or 'the network'}: {why}" for name, why in list(kept.items())[:3])
    more = "; ..." if len(kept) > 3 else ""
    return [
        f"{counted(len(kept), 'layer')} {'keeps its' if len(kept) == 1 else 'keep their'} own "
        f"norms, which only the checks of the whole network cover: {some}{more}"
    ]


def _precision_notes(checks: Sequence[Check], dtype: str) -> list[str]:
    """What to know of a network whose error on the example is more than its dtype's rounding."""
    if not checks:
        return []
    check = checks[0]
    if dtype == "float32":
        if check.pytorch <= NOTED * check.largest:
            return []
        return [
            f"on the example PyTorch's own network is {check.pytorch:.2g} off where its largest "
            f"output is {check.largest:.2g}, much for float32: four times that is allowed"
        ]
    if check.error <= TIMES * torch.finfo(_DTYPES[dtype]).eps / 2 * check.largest:
        return []
    return [
        f"on the example the {dtype} network is {check.error:.2g} off, more than {TIMES} roundings "
        f"of its largest output; PyTorch's own is {check.pytorch:.2g} off. Calibration images "
        "bring what goes into norms near to zero, where half types have their digits"
    ]


def _seconds(whole: nn.Module, example: tuple[Tensor, ...]) -> float:
    """Of one call of the network in PyTorch, as it was given, in float32 on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return least_seconds(lambda: outputs_of(whole, example))
    finally:
        torch.set_num_threads(threads)
