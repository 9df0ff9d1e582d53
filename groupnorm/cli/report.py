"""groupnorm report: the report of a study, rebuilt from its records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.cells import cell_len
from rich.table import Table

from groupnorm.cli.options import named_folder
from groupnorm.cli.terminal import (
    console,
    escaped,
    print_json,
    report_interrupt,
    report_user_errors,
    say,
    this_command,
)
from groupnorm.printable import shell_command


def report(
    folders: Annotated[
        list[str],
        typer.Argument(metavar="FOLDER...", help="Folder of a study, or of several to join."),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            metavar="FOLDER",
            help="Join several studies of one experiment in this folder, which then is a study.",
        ),
    ] = None,
    column: Annotated[
        Literal["single", "double"] | None,
        typer.Option("--column", help="Draw figures as wide as one column of a paper, or as both."),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label",
            metavar="SPEC=NAME",
            help='What the report calls a norm, as "gn:groups=8=GN (ours)"; repeatable.',
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all numbers as JSON.")] = False,
) -> None:
    """Rebuild the page, the tables and the figures of a study from its records."""
    with (
        report_interrupt(lambda: f"the records are as they were. Again: {this_command()}"),
        report_user_errors(),
    ):
        from groupnorm.study.report.page import report_numbers, write_report

        studies = [path for text in folders if (path := named_folder(text, "FOLDER"))]
        folder = named_folder(out, "--out")
        if len(studies) > 1 and folder is None:
            raise ValueError("several studies are joined in a folder; name it with --out")
        if len(studies) == 1 and folder is not None:
            raise ValueError("--out joins several studies; name them, or leave --out out")
        if folder is None:
            (folder,) = studies
        else:
            from groupnorm.study.join import join_studies

            names = [*map(str, studies), "--out", str(folder)]
            join_studies(studies, folder, shell_command(["groupnorm", "report", *names]))
        page, *files = write_report(folder, column=column, labels=label or ())
        if as_json:
            print_json(report_numbers(folder))
            return
        print_main_table(folder, label or ())
        say(f"report: {page}")
        say(f"with it: {_in_words(files, folder)}")


def _in_words(files: list[Path], out: Path) -> str:
    """The files of a report, the kinds of each figure together: "figures/a.{svg,pdf,png}"."""
    kinds: dict[str, list[str]] = {}
    for path in files:
        name = path.relative_to(out).with_suffix("").as_posix()
        kinds.setdefault(name, []).append(path.suffix.removeprefix("."))
    return ", ".join(
        f"{name}.{{{','.join(found)}}}" if len(found) > 1 else f"{name}.{found[0]}"
        for name, found in kinds.items()
    )


def print_main_table(folder: Path, labels: Sequence[str] = ()) -> None:
    """The title and the table, or a list of its cells where the terminal is too narrow for it."""
    from groupnorm.study.report.page import main_metric, main_table, main_title

    header, rows = main_table(folder, labels=labels)
    if not rows:
        say("the table is empty as yet: runs that decide what stands in it have not ended")
        return
    say(main_title(folder))
    widths = [max(map(cell_len, column)) for column in zip(header, *rows, strict=True)]
    if sum(widths) + 3 * len(widths) + 1 > console.width:  # with its borders
        say(f"{header[0]}: {main_metric(folder)}")
        for name, *cells in rows:
            say(name)
            for column, cell in zip(header[1:], cells, strict=True):
                say(f"  {column}: {cell}")
        return
    table = Table()
    for index, title in enumerate(header):
        table.add_column(title, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(escaped(cell) for cell in row))
    console.print(table)
