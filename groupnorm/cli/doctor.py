"""groupnorm doctor: what there is on this machine, and what is missing."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.table import Table

from groupnorm.cli.options import JsonOption, RootOption, existing_folder
from groupnorm.cli.terminal import console, escaped, print_json, report_user_errors

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
        "data": sets,
    }
