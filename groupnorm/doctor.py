"""What `groupnorm doctor` tells: versions, devices, backends and data sets."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "groupnorm", "torch", "numpy", "torchvision", "triton", "pydantic", "typer", "rich",
    "matplotlib", "jinja2", "scikit-learn", "scikit-image",
)  # fmt: skip


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
    for name in data.NAMES:
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
