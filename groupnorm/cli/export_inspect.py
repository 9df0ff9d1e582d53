"""groupnorm export inspect: the group norms of an ONNX file, and a copy with those right."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from groupnorm.cli.options import JsonOption
from groupnorm.cli.terminal import console, escaped, print_json, report_user_errors, say
from groupnorm.counts import counted

if TYPE_CHECKING:
    from groupnorm.export.onnx_file import FoundNorm, Inspection, RepairReport


def inspect(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="An ONNX file, whoever made it. Weights that it keeps in other files are read "
            "from its own folder alone.",
        ),
    ],
    repair: Annotated[
        str | None,
        typer.Option(
            "--repair",
            metavar="OUT",
            help="Write a copy in which the norms that go wrong are written anew; FILE stays.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an OUT that is there.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List the group norms of an ONNX file, however they are written, and where they go wrong.

    With status 1 if any goes wrong somewhere and is not repaired.
    """
    with report_user_errors():
        from groupnorm.export.onnx_file import inspect as look
        from groupnorm.export.onnx_file import repair as write

        found = look(file)
        report = None if repair is None else write(file, Path(repair), overwrite=overwrite)
    if as_json:
        done = None if report is None else report.to_dict()
        print_json({**found.to_dict(), "repair": done})
    else:
        _print(found)
        if report is not None:
            _print_repair(report)
    left = found.norms if report is None else report.kept
    if any(norm.is_wrong for norm in left):
        raise typer.Exit(1)


def _print(found: Inspection) -> None:
    wrong = sum(norm.is_wrong for norm in found.norms)
    summary = f"{found.path}, opset {found.opset}: {counted(len(found.norms), 'group norm')}"
    if found.norms:
        summary += f", {wrong} of which go wrong somewhere" if wrong else ", none goes wrong"
    say(summary)
    if found.norms:
        table = Table(show_lines=False)
        for title in ("norm", "written as", "input", "groups", "eps", "affine", "goes wrong in"):
            table.add_column(title, overflow="fold")
        for norm in found.norms:
            table.add_row(*map(escaped, _row(norm)))
        console.print(table)
    for fault in dict.fromkeys(fault for norm in found.norms for fault in norm.faults):
        mark = "wrong" if fault.wrong else "note"
        say(f"{mark}: {fault.runtime}: {fault.what} ({fault.source})")
    for text in found.not_looked_into:
        say(f"not looked into: {text}")


def _row(norm: FoundNorm) -> tuple[str, ...]:
    name = f"{norm.name} (in {norm.graph})" if norm.graph else norm.name
    shape = "?" if norm.shape is None else "x".join(str(size) or "?" for size in norm.shape)
    wrong = dict.fromkeys(fault.runtime for fault in norm.faults if fault.wrong)
    last = ", channels last" if norm.channels_last else ""
    return (
        name,
        norm.form,
        f"{shape} {norm.dtype or '?'}{last}",
        f"{norm.groups} of {norm.channels or '?'}",
        f"{norm.eps:g}",
        norm.affine,
        "; ".join(wrong) or "-",
    )


def _print_repair(report: RepairReport) -> None:
    if report.out is None and not report.kept:
        say("nothing to repair: no group norm of the file goes wrong; nothing was written")
    elif report.out is None:
        say("nothing was written")
    else:
        said = counted(len(report.repaired), "group norm")
        say(f"{report.out}: {said} written anew, {report.right} were right")
    for norm in report.kept:
        say(f"left as it is: {norm.name}: {norm.kept}")
