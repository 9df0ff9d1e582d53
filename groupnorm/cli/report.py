"""groupnorm report: the report of a study, rebuilt from its records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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


def report(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Folder of a study.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the main table as JSON.")] = False,
) -> None:
    """Rebuild report.html, tables.csv and the figures of a study from its records."""
    with (
        report_interrupt(lambda: f"the records are as they were. Again: {this_command()}"),
        report_user_errors(),
    ):
        from groupnorm.study.report.page import build_report, main_table

        out = named_folder(folder, "report")
        assert out is not None
        path = build_report(out)
        if as_json:
            header, rows = main_table(out, repeat=True)
            print_json([dict(zip(header, row, strict=True)) for row in rows])
            return
        print_main_table(out)
        say(f"report: {path}")


def print_main_table(folder: Path) -> None:
    """The title and the table, or a list of its cells where the terminal is too narrow for it."""
    from groupnorm.study.report.page import main_table, main_title

    header, rows = main_table(folder)
    say(main_title(folder))
    widths = [max(map(cell_len, column)) for column in zip(header, *rows, strict=True)]
    if sum(widths) + 3 * len(widths) + 1 > console.width:  # with its borders
        say(f"{header[0]}: error")
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
