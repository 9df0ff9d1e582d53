"""groupnorm doctor: what there is on this machine, and what is missing."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from groupnorm.cli.options import RootOption, existing_folder
from groupnorm.cli.terminal import console, escaped, print_json, report_user_errors


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
    data_root: RootOption = None,
) -> None:
    """Versions, devices, backends and why one is off, data sets and where they were looked for."""
    with report_user_errors():
        from groupnorm.doctor import examine

        found = examine(existing_folder(data_root, "--data-root"))
        if as_json:
            print_json(found)
            return
        for title, rows in (
            ("Versions", [(k, v or "not installed") for k, v in found["versions"].items()]),
            ("Devices", [(d["device"], d["name"]) for d in found["devices"]]),
            ("Backends", [(b["name"], b["reason"]) for b in found["backends"]]),
            ("Data sets", [(d["name"], d["where"]) for d in found["data"]]),
        ):
            table = Table(title=title, title_justify="left", show_header=False)
            for name, text in rows:
                table.add_row(name, escaped(str(text)))
            console.print(table)
