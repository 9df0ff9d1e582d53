"""groupnorm doctor: what there is on this machine, and what is missing."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.table import Table

from groupnorm.cli.options import JsonOption, RootOption, existing_folder
from groupnorm.cli.terminal import console, escaped, print_json, report_user_errors
from groupnorm.memory import large_blocks_are_kept

PACKAGES = (
    "groupnorm", "torch", "numpy", "torchvision", "triton", "pydantic", "typer", "rich",
    "matplotlib", "jinja2", "scikit-learn", "scikit-image",
)  # fmt: skip


def doctor(
    as_json: JsonOption = False,
    data_root: RootOption = None,
) -> None:
    """Versions, devices, backends and why one is off, data sets and where they were looked for."""
    with report_user_errors():
        found = examine(existing_folder(data_root, "--data-root"))
        if as_json:
            print_json(found)
            return
        for title, rows in (
            ("Versions", [(k, v or "not installed") for k, v in found["versions"].items()]),
            ("Devices", [(d["device"], d["name"]) for d in found["devices"]]),
            ("Backends", [(b["name"], b["reason"]) for b in found["backends"]]),
            ("Memory", [("large blocks", found["large_blocks"]["reason"])]),
            ("Data sets", [(d["name"], d["where"]) for d in found["data"]]),
        ):
            table = Table(title=title, title_justify="left", show_header=False)
            for name, text in rows:
                table.add_row(name, escaped(str(text)))
            console.print(table)


def examine(data_root: Path | None = None) -> dict[str, Any]:
    """Everything the doctor knows, as plain JSON values."""
    import torch

    from groupnorm import data
    from groupnorm.environment import cpu_name
    from groupnorm.ops.group_norm import backends

    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    devices = [{"device": "cpu", "name": cpu_name(), "threads": torch.get_num_threads()}]
    devices += [
        {"device": f"cuda:{index}", "name": torch.cuda.get_device_name(index)}
        for index in range(torch.cuda.device_count())
    ]
    sets = []
    for name in (*data.NAMES, *data.DETECTION_NAMES, *data.SEGMENTATION_NAMES, *data.VIDEO_NAMES):
        try:
            sets.append({"name": name, "found": True, "where": data.find(name, data_root)})
        except data.DataError as error:
            sets.append({"name": name, "found": False, "where": str(error)})
    return {
        "versions": versions,
        "platform": platform.platform(),
        "devices": devices,
        "backends": backends.report(),
        "large_blocks": _large_blocks(),
        "data": sets,
    }


def _large_blocks() -> dict[str, Any]:
    """Whether this process keeps large blocks that are freed, and what that is worth."""
    kept = large_blocks_are_kept()
    if kept:
        reason = "kept in this process, so that no step pays for page faults again"
    elif not sys.platform.startswith("linux"):
        reason = "left to this system: groupnorm.keep_large_blocks() needs glibc"
    else:
        reason = (
            "given back when they are freed; groupnorm.keep_large_blocks() at the start of a script"
            " saves page faults in every step on the CPU; studies do it"
        )
    return {"kept": kept, "reason": reason}
