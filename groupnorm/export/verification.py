"""The check of a file that was written before, perhaps on another machine."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from groupnorm.export.errors import ExportError
from groupnorm.export.network_check import compare
from groupnorm.export.report import ExportReport, read_report
from groupnorm.export.runtimes.probe import check_survives
from groupnorm.export.saving import raise_for_failures
from groupnorm.export.targets import runtime_of


def verify(path: str | os.PathLike[str]) -> ExportReport:
    """Run a file on the inputs that its report keeps, and compare it with the network in float64.

    Args:
        path: of the file; its report stands beside it.

    Returns:
        The report, with the checks of this machine; norms by themselves are not checked again.

    Raises:
        ExportError: there is no report, it keeps no inputs, the runtime is not here, or the file
            does not compute what the network did.
    """
    path = Path(path)
    report = read_report(path)
    for name in report.files:
        if not path.with_name(name).exists():
            raise ExportError(f"{path.with_name(name)} is missing")
    if not report.kept:
        raise ExportError(
            f"the report of {path} keeps no inputs: they are too large. Export the network again "
            "with a smaller example"
        )
    runtime = runtime_of(report.runtime)
    versions = runtime.versions()
    check_survives(runtime, [(path, report.kept[0].inputs)])
    run = runtime.load(path)
    checked = replace(
        report,
        checks=[compare(run, one) for one in report.kept],
        norms=[],
        not_run=None,
        versions=versions,
    )
    raise_for_failures(checked)
    return checked
