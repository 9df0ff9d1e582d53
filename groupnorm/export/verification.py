"""The check of a file that was written before, perhaps on another machine."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from groupnorm.export.errors import ExportError
from groupnorm.export.gate.check import raise_for_failures
from groupnorm.export.gate.isolated import run_isolated
from groupnorm.export.gate.network import compare
from groupnorm.export.paths import digest_of, files_of
from groupnorm.export.report import ExportReport, read_report
from groupnorm.export.targets import runs_here, runtime_of, target_of


def verify(path: str | os.PathLike[str]) -> ExportReport:
    """Run a file on the inputs that its report keeps, and compare it with the network in float64.

    Args:
        path: of the file; its report stands beside it.

    Returns:
        The report, with the checks of this machine; norms by themselves are not checked again.

    Raises:
        ExportError: there is no report, or it is another file's or keeps no inputs, the runtime is
            not here, or the file does not compute what the network did.
    """
    path = Path(path)
    report = read_report(path)
    target = target_of(report.runtime)
    files = files_of(path, target)
    for one in files:
        if not one.exists():
            raise ExportError(f"{one} is missing")
    if [digest_of(one) for one in files] != list(report.files.values()):
        raise ExportError(f"{path} was changed, or the report beside it is another file's")
    if not report.kept:
        raise ExportError(
            f"the report of {path} keeps no inputs: they are too large. Export the network again "
            "with a smaller example"
        )
    if not runs_here(target):
        raise ExportError(f"{target.title} does not run on this machine; verify {path} on another")
    runtime = runtime_of(report.runtime)
    versions = runtime.versions()
    (ran,) = run_isolated(runtime, (path, [one.inputs for one in report.kept]))
    checked = replace(
        report,
        checks=[compare(*pair) for pair in zip(ran.outputs, report.kept, strict=True)],
        norms=[],
        not_run=None,
        versions=versions,
    )
    raise_for_failures(checked)
    return checked
